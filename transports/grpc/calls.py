"""The boundary of every call: admission, errors, and what is still running."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from typing import TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from msgspec import Struct

from core import deadlines
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
from core.telemetry.figures import Figure
from core.telemetry.meter import CANCELLED, OK, Meter
from core.telemetry.metrics import bound
from core.telemetry.requests import HEADER, RequestContext
from transports.grpc import arrivals
from transports.grpc.arrivals import Arrivals
from transports.grpc.credentials import CallCredentials
from transports.grpc.errors import status_of
from transports.grpc.rpcs import RpcCounts
from transports.grpc.server import MethodHandler

log = structlog.get_logger("trivium.grpc")

#: Calls at once of an RPC that is not bounded with the others: who may hold open those of health is anybody.
_AT_ONCE = 32

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Call:
    """One call as its handler sees it. Requests and answers are bytes: garbage is then met inside the boundary."""

    __slots__ = ("_arrivals", "_context", "_counts", "_service", "session")

    def __init__(
        self,
        context: Context,
        session: Session | None,
        service: MessageService | None,
        arrivals: Arrivals,
        counts: RpcCounts,
    ) -> None:
        self._context = context
        self.session = session
        self._service = service
        self._arrivals = arrivals
        self._counts = counts

    async def begin(self) -> None:
        """Send the headers of a stream: gRPC sends those of a write that is cut off again, and never ends the call."""
        await self._context.send_initial_metadata(())

    @property
    def service(self) -> MessageService:
        """The service as far as whoever calls may use it. Calls of public operations have no way to it."""
        if self._service is None:
            raise Unauthenticated("nobody is known to call")
        return self._service

    @property
    def keys(self) -> KeyService:
        """The API keys as far as whoever calls may administer them."""
        if self.session is None:
            raise Unauthenticated("nobody is known to call")
        return self.session.keys

    def place(self) -> AbstractContextManager[None]:
        """A place among the streams that whoever calls may have open, or `Overloaded`."""
        if self.session is None:
            raise Unauthenticated("nobody is known to call")
        return self.session.allowance.stream()

    async def request(self) -> bytes:
        """The request, where there is one and no stream of them."""
        try:
            request = await self._arrivals.wait(self.read)
        except TimeoutError as error:
            if self._arrivals.ended:
                raise Unavailable("the service is stopping") from error
            raise DeadlineExceeded(f"did not arrive within {arrivals.SECONDS:g} s", field="request") from error
        if request is None:
            raise InvalidArgument("is missing", field="request")
        return request

    def begin_deadline(self) -> None:
        """Let everything that works for this call know when its caller gives up; gRPC ends it then by itself."""
        deadlines.begin(self._context.time_remaining())

    async def read(self) -> bytes | None:
        """The next request of a stream, None after the last."""
        request = await self._context.read()
        if request is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack EOF
            return None
        self._counts.received += 1
        return request

    async def write(self, answer: bytes) -> None:
        """Send an answer of a stream; returns once the peer can take more."""
        await self._context.write(answer)
        self._counts.sent += 1


#: Serves one call; a stream writes its answers itself and returns None.
Handler: TypeAlias = Callable[[Call], Awaitable[bytes | None]]


class Rpc(Struct, frozen=True):
    """How an RPC is served, and its name in the policy's table, which says what the caller needs."""

    operation: str
    handler: Handler


def unary(operation: str, answer: Callable[[Call, bytes], Awaitable[bytes]]) -> Rpc:
    """An RPC of one request and one answer."""

    async def handle(call: Call) -> bytes:
        request = await call.request()
        call.begin_deadline()
        return await answer(call, request)

    return Rpc(operation, handle)


class Room:
    """For so many calls at once."""

    def __init__(self, most: int) -> None:
        self.open = 0
        self.most = most

    def take(self, context: Context) -> None:
        """A place until the call has ended and its answer was sent, or `Overloaded`."""
        if self.open >= self.most:
            raise Overloaded(f"{self.open} calls run, which is the most")
        self.open += 1
        context.add_done_callback(self._give)  # type: ignore[arg-type]  # the stubs have a class for a protocol

    def _give(self, _: object) -> None:
        self.open -= 1


class Calls:
    """All calls of the door.

    For gRPC all of them are streams of requests. The peer can't tell, and that way a request is read only once its
    call was admitted, and under a deadline; gRPC itself would read it first, and wait for it forever.
    """

    def __init__(self, gate: Gate, arrivals: Arrivals, meter: Meter, *, most: int) -> None:
        """At most `most` calls run at once of the services that are bounded."""
        self._gate = gate
        self._arrivals = arrivals
        self._meter = meter
        self._counts: list[RpcCounts] = []
        self._bounded = Room(most)

    def handlers(
        self, service: ServiceDescriptor, rpcs: Mapping[str, Rpc], *, name: str = "", bounded: bool = False
    ) -> dict[str, MethodHandler]:
        """What gRPC calls for each method of `service`, served under another `name` if one is given.

        What is not `bounded` with the others has few places of its own for each method, which nobody else misses.
        """
        name = name or service.full_name
        return {
            method.name: self._handler(
                RpcCounts(name, method, self._meter.operation(method.name)),
                rpcs[method.name],
                self._bounded if bounded else Room(_AT_ONCE),
            )
            for method in service.methods
        }

    def figures(self) -> Iterator[Figure]:
        yield from bound("grpc_calls", self._bounded.open, self._bounded.most)
        for counts in self._counts:
            yield from counts.figures()

    def _handler(self, counts: RpcCounts, rpc: Rpc, room: Room) -> MethodHandler:
        self._counts.append(counts)
        public = OPERATIONS[rpc.operation] is Needs.NOTHING

        async def handle(_: object, context: Context) -> bytes | None:
            begun = perf_counter()
            counts.started += 1
            code = CANCELLED
            request = self._begin(context)
            try:
                room.take(context)
                call = await self._admitted(context, request, counts, public=public)
                if counts.is_stream:
                    answer = await self._stream(call, rpc.handler)
                else:
                    answer = await rpc.handler(call)
                code = OK
                return answer
            except TriviumError as error:
                code, status = error.code, status_of(error)
            except grpc.aio.BaseError:
                raise  # the call is over, nobody is there to answer
            except Exception:
                log.exception("a call failed", rpc=counts.name)
                code, status = Internal.code, status_of(Internal("the call failed, the log has the cause"))
            finally:
                counts.instrument.ended(code, begun)
            # outside of `except`: gRPC keeps what `abort` raises with the call, and with it would keep the error's
            # traceback, and all of the request, until the next collection
            trailers = (*status.trailing_metadata, (HEADER, request.id))
            return await context.abort(status.code, status.details, trailers)

        if counts.is_stream:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    async def _admitted(self, context: Context, request: RequestContext, counts: RpcCounts, *, public: bool) -> Call:
        if public:
            return Call(context, None, None, self._arrivals, counts)
        session = await self._gate.admit(CallCredentials(context))
        request.principal = session.principal.name
        return Call(context, session, self._meter.counting(session.service), self._arrivals, counts)

    async def _stream(self, call: Call, serve: Handler) -> bytes | None:
        """Serve a stream for as long as the credential of its caller holds."""
        await call.begin()
        if call.session is None:
            return await serve(call)
        async with call.session.lifetime():
            return await serve(call)

    def _begin(self, context: Context) -> RequestContext:
        """What is known of a call. Its id is answered if it brought one, or fails: else a trailer costs some 5 us."""
        metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
        for name, value in metadata:
            if name == HEADER:
                request = self._meter.requests.begin(value, metadata)
                context.set_trailing_metadata(((HEADER, request.id),))
                return request
        return self._meter.requests.begin(None, metadata)
