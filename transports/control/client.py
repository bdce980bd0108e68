"""The end of the socket in a command."""

import asyncio
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from core.administration import KeyInfo, KeyPage, NewKey
from core.errors import Unavailable
from transports.control.wire import ANSWER_BYTES, Answer, CreateKey, ListKeys, RevokeKey, address, encode

T = TypeVar("T")

#: For one answer; a commit takes milliseconds, unless the disk is in trouble.
_SECONDS = 30.0


class RemoteKeys:
    """A `KeyService` in the process that holds `folder`.

    It raises what that raises, and `Unavailable` where that process ends, or takes too long, before it answers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def connect(self) -> None:
        """Comes before all else. Raises `OSError` if no process listens."""
        with address(self._folder) as name:
            self._reader, self._writer = await asyncio.open_unix_connection(name, limit=ANSWER_BYTES)

    def close(self) -> None:
        self._writer.close()

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        return await self._ask(CreateKey(principal, days), NewKey)

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        return await self._ask(ListKeys(after, limit), KeyPage)

    async def revoke_key(self, id: str) -> KeyInfo:
        return await self._ask(RevokeKey(id), KeyInfo)

    async def _ask(self, request: Struct, kind: type[T]) -> T:
        try:
            async with asyncio.timeout(_SECONDS):
                self._writer.write(encode(request) + b"\n")
                line = await self._reader.readline()
        except (OSError, TimeoutError) as error:
            raise _lost() from error
        if not line.endswith(b"\n"):
            raise _lost()
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error is not None:
            raise answer.error.error()
        return msgspec.json.decode(answer.result, type=kind)


def _lost() -> Unavailable:
    return Unavailable("the service ended, or took too long, before it answered: whether it was done is not known")
