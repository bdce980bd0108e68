"""The boundary of every call: admission, errors, and what is still running."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from core.errors import DeadlineExceeded, Internal, InvalidArgument, Overloaded, TriviumError, Unavailable
from core.telemetry.figures import Figure
from core.telemetry.meter import CANCELLED, OK, Meter
from core.telemetry.metrics import bound
from core.telemetry.requests import HEADER, RequestContext
from transports.grpc.closing import Closing
from transports.grpc.errors import status_of
from transports.grpc.rpcs import Rpc

log = structlog.get_logger("trivium.grpc")

#: Time for the one request of a call to arrive; stops slow senders.
_REQUEST_SECONDS = 30.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Call:
    """One call as its handler sees it. Requests and answers are bytes: garbage is then met inside the boundary."""

    __slots__ = ("_closing", "_context", "_rpc")

    def __init__(self, context: Context, closing: Closing, rpc: Rpc) -> None:
        self._context = context
        self._closing = closing
        self._rpc = rpc

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
        if request is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack EOF
            return None
        self._rpc.received += 1
        return request

    async def write(self, answer: bytes) -> None:
        """Send an answer of a stream; returns once the peer can take more."""
        await self._context.write(answer)
        self._rpc.sent += 1


#: Serves one call; a stream writes its answers itself and returns None.
Handler: TypeAlias = Callable[[Call], Awaitable[bytes | None]]


def unary(answer: Callable[[bytes], Awaitable[bytes]]) -> Handler:
    """A handler of one request and one answer."""

    async def handle(call: Call) -> bytes:
        return await answer(await call.request())

    return handle


class Calls:
    """All calls of the door.

    For gRPC all of them are streams of requests. The peer can't tell, and that way a request is read only once its
    call was admitted, and under a deadline; gRPC itself would read it first, and wait for it forever.
    """

    def __init__(self, closing: Closing, meter: Meter, *, most: int) -> None:
        """At most `most` calls run at once of the services that are bounded."""
        self._closing = closing
        self._meter = meter
        self._rpcs: list[Rpc] = []
        self._most = most
        self._bounded = 0
        self._running: set[asyncio.Task[object]] = set()

    def handlers(
        self, service: ServiceDescriptor, handlers: Mapping[str, Handler], *, name: str = "", bounded: bool = False
    ) -> dict[str, MethodHandler]:
        """What gRPC calls for each method of `service`, served under another `name` if one is given."""
        name = name or service.full_name
        return {
            method.name: self._handler(
                Rpc(name, method, self._meter.operation(method.name)), handlers[method.name], bounded=bounded
            )
            for method in service.methods
        }

    def figures(self) -> Iterator[Figure]:
        yield from bound("grpc_calls", self._bounded, self._most)
        for rpc in self._rpcs:
            yield from rpc.figures()

    async def ended(self) -> None:
        """Return once no handler runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _handler(self, rpc: Rpc, handler: Handler, *, bounded: bool) -> MethodHandler:
        self._rpcs.append(rpc)

        async def handle(_: object, context: Context) -> bytes | None:
            begun = perf_counter()
            rpc.started += 1
            code = CANCELLED
            request = self._begin(context)
            try:
                self._enter(bounded=bounded)
                answer = await handler(Call(context, self._closing, rpc))
                code = OK
                return answer
            except TriviumError as error:
                code = error.code
                return await _end(context, error, request)
            except grpc.aio.BaseError:
                raise  # the call is over, nobody is there to answer
            except Exception:
                log.exception("a call failed", rpc=rpc.name)
                code = Internal.code
                return await _end(context, Internal("the call failed, the log has the cause"), request)
            finally:
                rpc.instrument.ended(code, begun)

        if rpc.is_stream:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _begin(self, context: Context) -> RequestContext:
        metadata = cast(Iterable[tuple[str, str | bytes]], context.invocation_metadata() or ())
        given = next((value for name, value in metadata if name == HEADER), None)
        request = self._meter.requests.begin(given, metadata)
        context.set_trailing_metadata(((HEADER, request.id),))
        return request

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


async def _end(context: Context, error: TriviumError, request: RequestContext) -> NoReturn:
    status = status_of(error)
    await context.abort(status.code, status.details, (*status.trailing_metadata, (HEADER, request.id)))
