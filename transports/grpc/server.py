"""The server of grpc.aio, with a way of its own to accept calls."""

import asyncio
import logging
from asyncio import Task
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from core.errors import MethodNotAllowed, Overloaded
from core.telemetry.meter import Instrument
from transports.grpc.errors import status_of
from transports.grpc.threads import patient

#: Time to tell a peer that there is no such RPC.
_REFUSAL_SECONDS = 5.0
#: Calls of one RPC that gRPC's core may hand over before we ask for more. One by one, each call would take its own way
#: through gRPC's threads: a quarter of the CPU of a `Publish`. Four gain half of that, 32 no more.
_AT_ONCE = 16

MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def _is_harmless(record: logging.LogRecord) -> bool:
    """grpcio logs the value of metadata that is no UTF-8, which can be a credential, as often as somebody sends one."""
    return not str(record.msg).startswith("Invalid encoding on ")


class _AioServer(cygrpc.AioServer):  # type: ignore[misc]  # untyped
    """Accepts the calls of each RPC by itself, and refuses RPCs that are not registered without looking at their path.

    The loop of grpcio (1.85.1) that accepts all calls decodes such a path: one request for `/\\xff` ended it, and the
    server with it. Registered RPCs are found by gRPC's core, which compares bytes. And for each call that loop waits
    for all RPCs anew, and looks up what is known: a sixth of the CPU of a `Publish`. Here it makes the first request
    for each RPC, waits for the end of the server, and never sees a call.
    """

    def __init__(self, options: Sequence[tuple[str, Any]], most: int, refusals: Instrument) -> None:
        """At most `most` calls run at once. The instrument counts the calls that reach no handler."""
        super().__init__(asyncio.get_running_loop(), None, (), (), options, None)
        self.calls: set[Task[None]] = set()
        self._refused: set[Task[None]] = set()
        self._most = most
        self._refusals = refusals
        self._handlers: dict[str, MethodHandler] = {}

    def add_registered_method_handlers(self, handlers: Mapping[str, MethodHandler]) -> None:
        """Register RPCs by path. Their handlers read requests by the context, and get None for them."""
        super().add_registered_method_handlers(handlers)
        self._handlers |= handlers

    def _make_request_call_future(self, path: bytes | None) -> Task[None]:
        """Called for each RPC, and with None for all others."""
        accepting = self._refuse_unknown() if path is None else self._accept_all(path.decode())
        return asyncio.get_running_loop().create_task(accepting, name="grpc-accept")

    async def _accept_all(self, path: str) -> None:
        """Start the calls of an RPC, as many as come at once. Ends with the server.

        Before its first call only that one is asked for: most RPCs are never called, and 16 take 35 KiB.
        """
        await self._accept(path, once=True)
        # no TaskGroup: it would cancel the others when the first one ends, while gRPC's core may still write to them
        await asyncio.gather(*(self._accept(path) for _ in range(_AT_ONCE)))

    async def _accept(self, path: str, *, once: bool = False) -> None:
        """Start one call after another, or one alone. Ends with the server."""
        loop = asyncio.get_running_loop()
        raw_path, handler = path.encode(), self._handlers[path]
        status = status_of(Overloaded(f"{self._most} calls run, which is the most"))
        while True:
            state = await self._request_registered_call(raw_path)
            context = cygrpc._ServicerContext(state, None, None, loop)
            tasks = self.calls
            if len(tasks) >= self._most:
                tasks = self._refused
                self._refusals.ended(Overloaded.code, perf_counter())
                serving = context.abort(status.code, status.details, status.trailing_metadata)
            elif handler.response_streaming:
                serving = cygrpc._finish_handler_with_stream_responses(
                    state, handler.stream_stream, None, context, loop
                )
            else:
                serving = cygrpc._finish_handler_with_unary_response(
                    state, handler.stream_unary, None, context, None, loop
                )
            task = loop.create_task(cygrpc._schedule_rpc_coro(serving, state, loop, path), name="grpc-call")
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if once:
                return

    async def _refuse_unknown(self) -> None:
        """Refuse each call of an RPC that is not registered. Ends with the server."""
        status = status_of(MethodNotAllowed("there is no such RPC"))
        while True:
            state = await self._request_call()
            self._refusals.ended(MethodNotAllowed.code, perf_counter())
            context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
            try:
                async with asyncio.timeout(_REFUSAL_SECONDS):
                    await context.abort(status.code, status.details, status.trailing_metadata)
            except (grpc.aio.BaseError, TimeoutError):
                continue  # it was told, or has gone


class Server(_server.Server):
    """A `grpc.aio.Server` for registered RPCs only. Made on the loop that it serves on."""

    def __init__(self, options: Sequence[tuple[str, Any]], maximum_concurrent_rpcs: int, refusals: Instrument) -> None:
        """The instrument counts the calls that reach no handler."""
        self._loop = asyncio.get_running_loop()
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_harmless)
        with patient():
            self._server = _AioServer(options, maximum_concurrent_rpcs, refusals)

    async def ended(self) -> None:
        """Return once no call runs."""
        while self._server.calls:
            await asyncio.wait(self._server.calls)
