"""Connections that only read, on a few threads of their own."""

import asyncio
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw
import structlog

from core.errors import Unavailable
from core.messages import StoredMessage, TopicHead
from core.stores import rows

log = structlog.get_logger("trivium.store")

_THREADS = 4
_NUMBER = "SELECT number FROM topics WHERE name = ?"
_PAGE = f"SELECT {rows.STORED} FROM messages WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"  # noqa: S608
_TOPICS = "SELECT name, head FROM topics WHERE name > ? ORDER BY name LIMIT ?"
_CURSORS = "SELECT name, offset FROM cursors JOIN topics ON number = topic WHERE reader = ?"
_READER = "SELECT 1 FROM cursors WHERE reader = ? AND topic = 0"

T = TypeVar("T")


class Readers:
    """Short reads only: a reader that stays in one snapshot keeps the write-ahead log from starting over.

    Each thread has a connection, which nobody else touches: so these need not lock themselves.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._opened: list[apsw.Connection] = []
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="trivium-reader")

    async def page(self, topic: str, after: int, head: int, *, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        """As `MessageLog.read`, from disk, up to `head`: the file may be a commit ahead of what was announced."""

        def read(connection: apsw.Connection) -> tuple[StoredMessage, ...]:
            number = connection.execute(_NUMBER, (topic,)).fetchone()
            if number is None:
                return ()
            bounds = (rows.position(number[0], after), rows.position(number[0], head), limit)
            return rows.page_of(topic, connection.execute(_PAGE, bounds), max_bytes)

        return await self._run(read)

    async def topics(self, after: str, limit: int) -> tuple[TopicHead, ...]:
        """As `MessageLog.topics`."""
        return await self._run(
            lambda connection: tuple(TopicHead(*row) for row in connection.execute(_TOPICS, (after, limit)))
        )

    async def cursors(self, reader: str) -> dict[str, int] | None:
        """As `MessageLog.cursors`."""

        def read(connection: apsw.Connection) -> dict[str, int] | None:
            if connection.execute(_READER, (reader,)).fetchone() is None:
                return None
            return {str(name): int(offset) for name, offset in connection.execute(_CURSORS, (reader,))}

        return await self._run(read)

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._opened:
            connection.close()

    async def _run(self, read: Callable[[apsw.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._with_connection, read)
        except apsw.Error as error:
            log.error("a read failed", reason=str(error))
            raise Unavailable("the store can't be read") from error

    def _with_connection(self, read: Callable[[apsw.Connection], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
        try:
            return read(connection)
        except BaseException as error:
            # it goes to the loop, where a cursor in its frames would be closed while this thread reads again
            traceback.clear_frames(error.__traceback__)
            raise
