"""Calls over RabbitMQ: requests from the queue `<prefix>.rpc`, answers to where they ask for."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Self

import structlog

from core.errors import Internal, InvalidArgument, Overloaded, TriviumError
from core.gate import Gate
from core.settings import Settings
from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from core.telemetry.meter import CANCELLED, OK, Meter
from core.telemetry.metrics import bound
from core.telemetry.requests import HEADER, current
from transports import documents
from transports.amqp import properties
from transports.amqp.answers import Answer, Answers
from transports.amqp.channel import Channel
from transports.amqp.connection import Broker
from transports.amqp.deadletters import DeadLetters
from transports.amqp.frames import Delivery
from transports.amqp.operations import Operations
from transports.amqp.properties import Properties

log = structlog.get_logger("trivium.amqp")

#: Calls that are under way at the end get this long; those not acknowledged by then come again.
_FINISH_SECONDS = 5.0
#: What the bodies of calls that are under way may take; one call is let in, however large.
_MOST_BYTES = 64 * 1024 * 1024


class Rpc:
    """One task per call, at most `amqp_rpc_prefetch` of them. A call is acknowledged once RabbitMQ holds its answer.

    So a call whose answer was lost comes again: a `Publish` whose messages have ids then answers as it did before.
    """

    def __init__(self, broker: Broker, gate: Gate, settings: Settings) -> None:
        self._broker = broker
        self._gate = gate
        self._meter = Meter.of(broker.name, settings)
        self._operations = Operations(self._meter, settings.limits)
        self._taken = 0
        self._prefetch = settings.amqp_rpc_prefetch
        self._answers = Answers(broker)
        self._dead_letters = DeadLetters(broker, settings, "RPC")
        self._calls: set[asyncio.Task[None]] = set()
        self._bytes = 0  # of the bodies of calls under way
        self._stopping = False

    async def __aenter__(self) -> Self:
        serving = self._broker.intake.serve("RPC", self._session)
        self._task = asyncio.get_running_loop().create_task(serving, name="amqp rpc")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the calls that are under way; the others stay with RabbitMQ."""
        self._stopping = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=_FINISH_SECONDS)
        self._task.cancel()
        await asyncio.wait({self._task})

    def figures(self) -> Iterator[Figure]:
        yield from self._meter.figures()
        yield from self._answers.figures()
        yield from self._dead_letters.figures()
        yield vocabulary.CONSUMED.of(self._taken, "rabbitmq", "process", self._broker.topology.rpc)
        yield from bound("amqp_calls", len(self._calls), self._prefetch)
        yield from bound("amqp_call_bytes", self._bytes, _MOST_BYTES)

    async def wait(self) -> None:
        """Never returns while it is open; raises what ended it, which is a defect."""
        await asyncio.shield(self._task)

    async def _session(self, channel: Channel, began: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:

            def receive(delivery: Delivery) -> None:
                if self._stopping:
                    return
                self._taken += 1
                call = group.create_task(self._serve(channel, delivery), name="amqp call")
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

            await channel.consume(self._broker.topology.rpc, self._prefetch, receive)
            began()
            await asyncio.get_running_loop().create_future()  # until cancelled

    async def _serve(self, channel: Channel, delivery: Delivery) -> None:
        begun = perf_counter()
        code = CANCELLED
        tag = delivery.tag
        instrument = self._operations.instrument(None)
        try:
            request = properties.decode(delivery.properties)
            instrument = self._operations.instrument(request.type)
            if request.reply_to is None:
                raise InvalidArgument("must name a queue for the answer", field="reply_to")
        except InvalidArgument as error:
            code = error.code
            log.warning("an RPC goes to the dead letters", code=code, reason=str(error))
            await self._dead_letters.bury([(delivery, error)])
        else:
            headers = request.headers
            self._meter.requests.begin(headers.get(HEADER), headers.items())
            answer, code = await self._call(request, delivery.body)
            del delivery  # its body need not wait until RabbitMQ takes the answer
            await self._answers.send(answer, request.reply_to, request.correlation_id)
        finally:
            instrument.ended(code, begun)
        channel.ack(tag)

    async def _call(self, request: Properties, body: bytes) -> tuple[Answer, str]:
        """The answer, and the code that it stands for."""
        try:
            with self._room(len(body)):
                session = self._gate.vouched(request.user_id)
                service = self._meter.counting(session.service)
                return await self._operations.call(request.type, service, body), OK
        except TriviumError as error:
            return _problem(error)
        except Exception:  # the boundary of one call
            log.exception("an RPC failed", operation=request.type)
            return _problem(Internal("the call failed, the outcome is unknown"))

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Raises `Overloaded` where there is none: reads that wait keep bodies too, and may wait for a minute."""
        if self._bytes and self._bytes + size > _MOST_BYTES:
            raise Overloaded(f"calls with {self._bytes} bytes are under way, at most {_MOST_BYTES}")
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size


def _problem(error: TriviumError) -> tuple[Answer, str]:
    request = current.get()
    members = {} if request is None else {"request_id": request.id}
    body = documents.problem_document(error, status=documents.STATUS[type(error)], members=members)
    return Answer("error", documents.PROBLEM, body), error.code
