"""API keys in a file of their own beside the log: seldom written, and not to be copied along with the messages."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import apsw

from core.errors import Unavailable
from core.keys import ApiKey
from core.settings import MEMORY
from core.stores.schema import migrate

T = TypeVar("T")

_MIGRATIONS = (
    """
    CREATE TABLE keys (
        id        TEXT    PRIMARY KEY,
        principal TEXT    NOT NULL,
        digest    BLOB    NOT NULL,   -- SHA-256 of the key
        created   INTEGER NOT NULL,   -- seconds since 1970, as are the others
        expires   INTEGER,
        revoked   INTEGER,
        last_used INTEGER
    ) WITHOUT ROWID;
    """,
)
#: What was cancelled may still be writing.
_BUSY_MILLISECONDS = 5000
_COLUMNS = "id, principal, digest, created, expires, revoked, last_used"
_LOAD = f"SELECT {_COLUMNS} FROM keys"  # noqa: S608
_SAVE = f"REPLACE INTO keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)"  # noqa: S608
_SAVE_LAST_USED = "UPDATE keys SET last_used = ? WHERE id = ?"


class SqliteKeys:
    """A `KeyStore` in the file `keys.db` of a folder, for its owner alone; in memory it is gone with the process.

    The file is made with the first key. Used by one process at a time, the one that has locked the folder.
    """

    def __init__(self, data_dir: str) -> None:
        self._path = None if data_dir == MEMORY else Path(data_dir) / "keys.db"
        self._memory: dict[str, ApiKey] = {}
        self._one_at_a_time = asyncio.Lock()

    async def load(self) -> Sequence[ApiKey]:
        if self._path is None or not self._path.exists():
            return list(self._memory.values())
        rows = await self._run(self._path, lambda file: list(file.execute(_LOAD)))
        return [
            ApiKey(
                id=id_,
                principal=principal,
                digest=digest,
                created=datetime.fromtimestamp(created, UTC),
                expires=_time(expires),
                revoked=_time(revoked),
                last_used=_time(last_used),
            )
            for id_, principal, digest, created, expires, revoked, last_used in rows
        ]

    async def save(self, key: ApiKey) -> None:
        """Raises `Unavailable` where it can't be written."""
        if self._path is None:
            self._memory[key.id] = key
            return
        times = (_seconds(key.created), _seconds(key.expires), _seconds(key.revoked), _seconds(key.last_used))
        row = (key.id, key.principal, key.digest, *times)
        await self._run(self._path, lambda file: file.execute(_SAVE, row))

    async def save_last_used(self, times: Mapping[str, datetime]) -> None:
        rows = [(_seconds(when), id_) for id_, when in times.items()]
        if self._path is not None:
            await self._run(self._path, lambda file: file.executemany(_SAVE_LAST_USED, rows))

    async def _run(self, path: Path, work: Callable[[apsw.Connection], T]) -> T:
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(_in_transaction, path, work)
            except (OSError, apsw.Error) as error:
                raise Unavailable(f"the keys can't be read or written: {error}") from error


def _in_transaction(path: Path, work: Callable[[apsw.Connection], T]) -> T:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # before SQLite makes it readable to others
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.pragma("synchronous", "full")
        migrate(connection, _MIGRATIONS)
        with connection:
            found = work(connection)
        return found  # noqa: RET504 - the transaction ends first
    finally:
        connection.close()


def _seconds(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp())


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
