"""The server of grpc.aio, without the way in which any peer could end it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from core.errors import MethodNotAllowed
from transports.grpc.errors import status_of

#: Time to tell a peer that there is no such RPC.
_REFUSAL_SECONDS = 5.0


def _is_harmless(record: logging.LogRecord) -> bool:
    """grpcio logs the value of metadata that is no UTF-8, which can be a credential, as often as somebody sends one."""
    return not str(record.msg).startswith("Invalid encoding on ")


class _AioServer(cygrpc.AioServer):  # type: ignore[misc]  # untyped
    """Refuses RPCs that are not registered without looking at their path.

    grpcio (1.85.1) decodes the path of such a call in the loop that accepts all calls: one request for `/\\xff` ended
    that loop, and the server with it. Registered RPCs are found by gRPC's core, which compares bytes.
    """

    async def _request_call(self) -> None:
        """The next call of an unknown RPC: each is refused here, none is ever handed on. Ends with the server."""
        status = status_of(MethodNotAllowed("there is no such RPC"))
        while True:
            state = await super()._request_call()
            context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
            try:
                async with asyncio.timeout(_REFUSAL_SECONDS):
                    await context.abort(status.code, status.details, status.trailing_metadata)
            except (grpc.aio.BaseError, TimeoutError):
                continue  # it was told, or has gone


class Server(_server.Server):
    """A `grpc.aio.Server` for registered RPCs only. Made on the loop that it serves on."""

    def __init__(self, options: Sequence[tuple[str, Any]], maximum_concurrent_rpcs: int) -> None:
        self._loop = asyncio.get_running_loop()
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_harmless)
        self._server = _AioServer(self._loop, None, (), (), options, maximum_concurrent_rpcs)
