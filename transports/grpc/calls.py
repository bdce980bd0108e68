"""The boundary of every call: admission, errors, and what is still running."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from msgspec import Struct

from core.administration import KeyService
from core.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Overloaded,
    TriviumError,
    Unauthenticated,
    Unavailable,
)
from core.gate import Gate, Session
from core.policy import OPERATIONS, Needs
from core.ports import MessageService
from transports.grpc.closing import Closing
from transports.grpc.credentials import CallCredentials
from transports.grpc.errors import status_of

log = structlog.get_logger("trivium.grpc")

#: Time for the one request of a call to arrive; stops slow senders.
_REQUEST_SECONDS = 30.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Call:
    """One call as its handler sees it. Requests and answers are bytes: garbage is then met inside the boundary."""

    __slots__ = ("_closing", "_context", "_session")

    def __init__(self, context: Context, session: Session | None, closing: Closing) -> None:
        self._context = context
        self._session = session
        self._closing = closing

    @property
    def service(self) -> MessageService:
        """The service as far as whoever calls may use it. Calls of public operations have no way to it."""
        if self._session is None:
            raise Unauthenticated("nobody is known to call")
        return self._session.service

    @property
    def keys(self) -> KeyService:
        """The API keys as far as whoever calls may administer them."""
        if self._session is None:
            raise Unauthenticated("nobody is known to call")
        return self._session.keys

    async def request(self) -> bytes:
        """The request, where there is one and no stream of them."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS) as scope:
                with self._closing.ends(scope):
                    request = await self.read()
        except TimeoutError as error:
            if self._closing.begun:
                raise Unavailable("the service is stopping") from error
            raise DeadlineExceeded(f"did not arrive within {_REQUEST_SECONDS:g} s", field="request") from error
        if request is None:
            raise InvalidArgument("is missing", field="request")
        return request

    async def read(self) -> bytes | None:
        """The next request of a stream, None after the last."""
        request = await self._context.read()
        return None if request is grpc.aio.EOF else request  # type: ignore[attr-defined]  # the stubs lack EOF

    async def write(self, answer: bytes) -> None:
        """Send an answer of a stream; returns once the peer can take more."""
        await self._context.write(answer)


#: Serves one call; a stream writes its answers itself and returns None.
Handler: TypeAlias = Callable[[Call], Awaitable[bytes | None]]


class Rpc(Struct, frozen=True):
    """How an RPC is served, and its name in the policy's table, which says what the caller needs."""

    operation: str
    handler: Handler


def unary(operation: str, answer: Callable[[Call, bytes], Awaitable[bytes]]) -> Rpc:
    """An RPC of one request and one answer."""

    async def handle(call: Call) -> bytes:
        return await answer(call, await call.request())

    return Rpc(operation, handle)


class Calls:
    """All calls of the door.

    For gRPC all of them are streams of requests. The peer can't tell, and that way a request is read only once its
    call was admitted, and under a deadline; gRPC itself would read it first, and wait for it forever.
    """

    def __init__(self, gate: Gate, closing: Closing, *, most: int) -> None:
        """At most `most` calls run at once of the services that are bounded."""
        self._gate = gate
        self._closing = closing
        self._most = most
        self._bounded = 0
        self._running: set[asyncio.Task[object]] = set()

    def handlers(
        self, service: ServiceDescriptor, rpcs: Mapping[str, Rpc], *, bounded: bool = False
    ) -> dict[str, MethodHandler]:
        """What gRPC calls for each method of `service`."""
        return {
            method.name: self._handler(
                f"{service.full_name}/{method.name}",
                rpcs[method.name],
                is_stream=method.client_streaming or method.server_streaming,
                bounded=bounded,
            )
            for method in service.methods
        }

    async def ended(self) -> None:
        """Return once no handler runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _handler(self, name: str, rpc: Rpc, *, is_stream: bool, bounded: bool) -> MethodHandler:
        public = OPERATIONS[rpc.operation] is Needs.NOTHING
        serve = rpc.handler

        async def handle(_: object, context: Context) -> bytes | None:
            try:
                self._enter(bounded=bounded)
                session = None if public else await self._gate.admit(CallCredentials(context))
                call = Call(context, session, self._closing)
                if is_stream:  # gRPC would send the headers of a write that is cut off again, and fail to end the call
                    await context.send_initial_metadata(())
                if session is None or not is_stream:
                    return await serve(call)
                async with session.lifetime():
                    return await serve(call)
            except TriviumError as error:
                return await _end(context, error)
            except grpc.aio.BaseError:
                raise  # the call is over, nobody is there to answer
            except Exception:
                log.exception("a call failed", rpc=name)
                return await _end(context, Internal("the call failed, the log has the cause"))

        if is_stream:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _enter(self, *, bounded: bool) -> None:
        """Note this call until its task has ended; `Overloaded` if there are too many."""
        task = cast(asyncio.Task[object], asyncio.current_task())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if not bounded:
            return
        if self._bounded >= self._most:
            raise Overloaded(f"{self._bounded} calls run, which is the most")
        self._bounded += 1
        task.add_done_callback(self._leave)

    def _leave(self, _: object) -> None:
        self._bounded -= 1


async def _end(context: Context, error: TriviumError) -> NoReturn:
    status = status_of(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
