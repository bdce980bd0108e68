"""The boundary of every call: admission, errors, and what is still running."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from core import deadlines
from core.errors import DeadlineExceeded, Internal, InvalidArgument, Overloaded, TriviumError, Unavailable
from transports.grpc.closing import Closing
from transports.grpc.errors import status_of

log = structlog.get_logger("trivium.grpc")

#: Time for the one request of a call to arrive; stops slow senders.
_REQUEST_SECONDS = 30.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Call:
    """One call as its handler sees it. Requests and answers are bytes: garbage is then met inside the boundary."""

    __slots__ = ("_closing", "_context")

    def __init__(self, context: Context, closing: Closing) -> None:
        self._context = context
        self._closing = closing

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

    def begin_deadline(self) -> None:
        """Let everything that works for this call know when its caller gives up; gRPC ends it then by itself."""
        deadlines.begin(self._context.time_remaining())

    async def read(self) -> bytes | None:
        """The next request of a stream, None after the last."""
        request = await self._context.read()
        return None if request is grpc.aio.EOF else request  # type: ignore[attr-defined]  # the stubs lack EOF

    async def write(self, answer: bytes) -> None:
        """Send an answer of a stream; returns once the peer can take more."""
        await self._context.write(answer)


#: Serves one call; a stream writes its answers itself and returns None.
Handler: TypeAlias = Callable[[Call], Awaitable[bytes | None]]


def unary(answer: Callable[[bytes], Awaitable[bytes]]) -> Handler:
    """A handler of one request and one answer."""

    async def handle(call: Call) -> bytes:
        request = await call.request()
        call.begin_deadline()
        return await answer(request)

    return handle


class Calls:
    """All calls of the door.

    For gRPC all of them are streams of requests. The peer can't tell, and that way a request is read only once its
    call was admitted, and under a deadline; gRPC itself would read it first, and wait for it forever.
    """

    def __init__(self, closing: Closing, *, most: int) -> None:
        """At most `most` calls run at once of the services that are bounded."""
        self._closing = closing
        self._most = most
        self._bounded = 0
        self._running: set[asyncio.Task[object]] = set()

    def handlers(
        self, service: ServiceDescriptor, handlers: Mapping[str, Handler], *, bounded: bool = False
    ) -> dict[str, MethodHandler]:
        """What gRPC calls for each method of `service`."""
        return {
            method.name: self._handler(
                f"{service.full_name}/{method.name}",
                handlers[method.name],
                is_stream=method.client_streaming or method.server_streaming,
                bounded=bounded,
            )
            for method in service.methods
        }

    async def ended(self) -> None:
        """Return once no handler runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _handler(self, rpc: str, handler: Handler, *, is_stream: bool, bounded: bool) -> MethodHandler:
        async def handle(_: object, context: Context) -> bytes | None:
            try:
                self._enter(bounded=bounded)
                return await handler(Call(context, self._closing))
            except TriviumError as error:
                return await _end(context, error)
            except grpc.aio.BaseError:
                raise  # the call is over, nobody is there to answer
            except Exception:
                log.exception("a call failed", rpc=rpc)
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
