"""The end of the socket in the process that holds the store."""

import asyncio
import os
import socket
from asyncio import StreamReader, StreamWriter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

import msgspec
import structlog

from core.administration import KeyService
from core.closing import Closing
from core.errors import Internal, InvalidArgument, TriviumError
from transports.control.wire import (
    NAME,
    REQUEST_BYTES,
    Answer,
    CreateKey,
    ListKeys,
    Refusal,
    RevokeKey,
    address,
    encode,
)

log = structlog.get_logger("trivium.control")

#: Connections at once; a command has one, and for some milliseconds.
_CONNECTIONS = 32
#: For a request to arrive, and for an answer to be taken.
_SECONDS = 5.0

_decode = msgspec.json.Decoder(CreateKey | ListKeys | RevokeKey).decode


class ControlSocket:
    """Listens in the data directory, which this process has locked. The socket's mode, 0600, is all the
    authentication there is: whoever can open it can open the files beside it too.
    """

    def __init__(self, keys: KeyService, data_dir: str) -> None:
        self._keys = keys
        self._folder = Path(data_dir)
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = Closing()

    async def __aenter__(self) -> Self:
        """Raises `OSError`."""
        with ExitStack() as stack:
            name = stack.enter_context(address(self._folder))  # which Python 3.13 looks at again when it closes
            self._server = await asyncio.start_unix_server(self._connected, sock=self._bind(name), limit=REQUEST_BYTES)
            self._opened = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was asked before is answered."""
        (self._folder / NAME).unlink(missing_ok=True)
        self._server.close()
        self._opened.close()
        self._closing.begin()
        if self._connections:
            await asyncio.wait(self._connections)

    def _bind(self, name: str) -> socket.socket:
        path = self._folder / NAME
        if path.is_socket():
            path.unlink()  # of a process that was killed: the folder is locked, so nobody listens there
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # from its first moment; what other threads make now is only less open than usual
        try:
            listener.bind(name)
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"can't make {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        return listener

    def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="control")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while request := await self._read(reader):
                writer.write(encode(await self._answer(request)) + b"\n")
                async with asyncio.timeout(_SECONDS):
                    await writer.drain()
        except (OSError, TimeoutError):
            return  # nobody is there any more, or does not say what is wanted
        finally:
            writer.close()

    async def _read(self, reader: StreamReader) -> bytes:
        """The next request; nothing at the end."""
        async with asyncio.timeout(_SECONDS) as idle:
            with self._closing.ends(idle):
                try:
                    return await reader.readline()
                except ValueError:  # as it tells of a line that is too long
                    return b" " * (REQUEST_BYTES + 1)

    async def _answer(self, request: bytes) -> Answer:
        try:
            return Answer(result=msgspec.Raw(await self._result(request)))
        except TriviumError as error:
            return Answer(error=Refusal.of(error))
        except Exception:
            log.exception("a command failed")
            return Answer(error=Refusal.of(Internal("an unexpected error; the log of the service tells more")))

    async def _result(self, request: bytes) -> bytes:
        if len(request) > REQUEST_BYTES:
            raise InvalidArgument(f"must be at most {REQUEST_BYTES} bytes", field="request")
        try:
            wanted = _decode(request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"is no request: {error}", field="request") from error
        match wanted:
            case CreateKey(principal, days):
                return encode(await self._keys.create_key(principal, days))
            case ListKeys(after, limit):
                return encode(await self._keys.list_keys(after=after, limit=limit))
            case RevokeKey(id):
                return encode(await self._keys.revoke_key(id))
            case _:
                assert_never(wanted)
