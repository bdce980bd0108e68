"""From RabbitMQ into the log: the queue `<prefix>.in`, in the order of arrival."""

import asyncio
from asyncio import Future
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeAlias

import structlog

from core.errors import Internal, TriviumError
from core.gate import Gate
from core.health import Health, State
from core.messages import Message
from core.settings import Settings
from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from core.telemetry.meter import OK, Meter
from core.telemetry.metrics import bound
from transports.amqp.burials import Burials
from transports.amqp.channel import Channel
from transports.amqp.connection import Broker
from transports.amqp.deadletters import DeadLetters
from transports.amqp.fates import FATES, Fate
from transports.amqp.frames import Delivery
from transports.amqp.items import Item, together
from transports.amqp.link import Backoff
from transports.amqp.window import MOST_BYTES, Window

log = structlog.get_logger("trivium.amqp")

#: A message that meets a defect of ours so often is given up.
_INTERNAL_ATTEMPTS = 5
#: What is in hand at the end gets this long; what is not acknowledged by then comes again.
_FINISH_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0
#: Pauses in a row that are normal under load, and not told.
_NORMAL_PAUSES = 3

Outcome: TypeAlias = TriviumError | None


class Inbox:
    """Takes what waits as one batch, and acknowledges it after the commit, before it takes the next.

    What can never be stored goes to the dead letters meanwhile, and is acknowledged once it is there.

    All of a batch is handed over in one turn of the loop, so it is committed as one: of several that can't be
    stored now, none is, and the order holds when they are tried again. A batch from one sender to one topic is one
    publication, which takes a sixth less CPU than one for each message.
    """

    def __init__(self, broker: Broker, gate: Gate, settings: Settings, health: Health) -> None:
        self._broker = broker
        self._gate = gate
        self._meter = Meter.of(broker.name, settings)
        self._counted = self._meter.operation("Inbox")
        self._taken = 0
        self._window = Window()
        self._prefetch = settings.amqp_prefetch
        self._limits = settings.limits
        self._rated = settings.rates.bounded  # each message counts as a request
        self._health = health
        self._dead_letters = DeadLetters(broker, settings, "inbox")
        self._backoff = Backoff(_LONGEST_PAUSE_SECONDS)
        self._pauses = 0  # since something went well
        self._stuck = self._unburied = ""  # what the check tells
        self._burials: Burials | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._health.report("inbox", State.OK)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="amqp inbox")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is in hand and acknowledge it; the rest stays with RabbitMQ."""
        self._stop.set()
        await _within(_FINISH_SECONDS, self._finish())
        self._task.cancel()
        await asyncio.wait({self._task})

    def figures(self) -> Iterator[Figure]:
        yield from self._meter.figures()
        yield from self._dead_letters.figures()
        labels = "rabbitmq", "process", self._broker.topology.inbox
        yield vocabulary.CONSUMED.of(self._taken, *labels)
        yield vocabulary.PROCESS_SECONDS.of(self._counted.seconds, *labels)
        yield from bound("inbox_bytes", self._window.bytes, MOST_BYTES)

    async def wait(self) -> None:
        """Never returns while it is open; raises what ended the inbox, which is a defect."""
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        while True:
            await self._broker.intake.serve("inbox", self._session)

    async def _session(self, channel: Channel, began: Callable[[], None]) -> None:
        """Returns when a fresh channel is due, all that it took being acknowledged, or too long in being buried."""
        window = self._window = Window()

        def receive(delivery: Delivery) -> None:
            window.receive(delivery)
            self._taken += 1
            self._wake.set()

        await channel.consume(self._broker.topology.inbox, self._prefetch, receive)
        began()
        async with Burials(channel, window, self._dead_letters, self._tell_unburied) as burials:
            self._burials = burials
            while not window.spent:
                self._wake.clear()
                batch = [] if self._stop.is_set() else window.take(self._limits.batch_messages)
                if not batch:
                    await self._wake.wait()
                    continue
                self._idle.clear()
                try:
                    await self._store(burials, [Item(delivery, self._limits) for delivery in batch])
                finally:
                    self._idle.set()
            await _within(_FINISH_SECONDS, burials.finished.wait())

    async def _store(self, burials: Burials, items: Sequence[Item]) -> None:
        """Get every item stored or on its way to the dead letters, in order. After a defect of ours, one by one."""
        alone = False
        while items:
            begun = perf_counter()
            outcomes = await self._attempt(items[:1] if alone else items)
            for code, times in Counter(OK if one is None else one.code for one in outcomes).items():
                self._counted.ended(code, begun, times=times)
            settled = next((at for at, outcome in enumerate(outcomes) if not _is_final(outcome)), len(outcomes))
            burials.settle([(item.delivery, outcome) for item, outcome in zip(items[:settled], outcomes, strict=False)])
            items = items[settled:]
            if settled == len(outcomes):
                self._goes_on()
                continue
            stuck = outcomes[settled]
            if stuck is not None and FATES[type(stuck)] is Fate.FEW_ATTEMPTS:
                alone = True
                items[0].attempts += 1
                if items[0].attempts == _INTERNAL_ATTEMPTS:
                    burials.settle([(items[0].delivery, stuck)])
                    items = items[1:]
                    continue
            await self._pause(stuck)
            if self._stop.is_set():
                return

    async def _attempt(self, items: Sequence[Item]) -> list[Outcome]:
        """Publish in order; the outcomes of those that were tried, which are the first."""
        if not self._rated and (messages := together(items)):
            answer = self._publish(items[0], messages)
            outcome = answer if isinstance(answer, TriviumError) else await _outcome(answer)
            if outcome is None or (isinstance(answer, Future) and FATES[type(outcome)] is Fate.WAIT):
                self._meter.traffic.came(messages)
                return [outcome] * len(items)
            # nothing of it was stored: what is wrong with one must not cost the others, and some may be admitted
        return await self._one_by_one(items)

    async def _one_by_one(self, items: Sequence[Item]) -> list[Outcome]:
        """Publish each in the same turn of the loop, up to the first that is not admitted now."""
        begun: list[Future[Any] | TriviumError] = []
        for item in items:
            message = item.message
            answer = self._publish(item, (message,)) if isinstance(message, Message) else message
            begun.append(answer)
            if isinstance(answer, Future) and isinstance(message, Message):
                self._meter.traffic.came((message,))
            if isinstance(answer, TriviumError) and not _is_final(answer):
                break
        try:
            return [answer if isinstance(answer, TriviumError) else await _outcome(answer) for answer in begun]
        finally:
            for answer in begun:
                if isinstance(answer, Future):
                    answer.cancel()  # of no effect on those that are done, nor on what the store does

    def _publish(self, item: Item, messages: Sequence[Message]) -> Future[Any] | TriviumError:
        """Publish messages of the topic and the sender of `item`."""
        try:
            return self._gate.vouched(item.user).service.publish(item.topic, messages)
        except TriviumError as error:
            return error.bare()
        except Exception:  # the boundary of one message
            log.exception("a message could not be published")
            return Internal("the message could not be published")

    async def _finish(self) -> None:
        await self._idle.wait()
        if self._burials is not None:
            await self._burials.finished.wait()

    async def _pause(self, reason: Outcome) -> None:
        self._pauses += 1
        if self._pauses == _NORMAL_PAUSES:
            self._stuck = f"messages wait in RabbitMQ: {reason}"
            self._report()
        asked = 0.0 if reason is None else reason.retry_after or 0.0
        await _within(max(asked, self._backoff.seconds()), self._stop.wait())

    def _goes_on(self) -> None:
        if self._pauses:
            self._pauses = 0
            self._backoff.reset()
            self._stuck = ""
            self._report()

    def _tell_unburied(self, problem: str) -> None:
        if problem != self._unburied:
            self._unburied = problem
            self._report()

    def _report(self) -> None:
        problems = "; ".join(filter(None, (self._stuck, self._unburied)))
        self._health.report("inbox", State.DEGRADED if problems else State.OK, problems)


def _is_final(outcome: Outcome) -> bool:
    return outcome is None or FATES[type(outcome)] is Fate.DEAD_LETTER


async def _outcome(answer: Future[Any]) -> Outcome:
    try:
        await answer
    except TriviumError as error:
        return error.with_traceback(None)  # `answer` keeps it, it would keep `answer`
    except Exception:  # the boundary of one message
        log.exception("a message could not be published")
        return Internal("the message could not be published")
    return None


async def _within(seconds: float, condition: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await condition
    except TimeoutError:
        return
