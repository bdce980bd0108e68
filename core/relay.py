"""The relay: every stored message to the broker, in order per topic, until the broker holds it."""

import asyncio
import heapq
import itertools
import random
from asyncio import Future
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import TracebackType
from typing import Self

import structlog
from msgspec import Struct

from core.errors import TriviumError
from core.health import Health, State
from core.messages import StoredMessage
from core.ports import BrokerPublisher, MessageLog, Undeliverable, Unroutable
from core.routes import Route, Sent
from core.settings import Settings
from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from core.telemetry.metrics import bound

log = structlog.get_logger("trivium.relay")

#: The reader under whose name the log keeps the cursors.
READER = "relay"
#: One turn of a topic before the next one has its turn.
_TURN_MESSAGES = 200
_TURN_BYTES = 1024 * 1024
#: A full window is filled up in so many parts: after each confirm, there would be a read for every few messages.
_REFILLS = 4
#: Topics that had nothing due lately and need no probe when they have.
_IDLE_ROUTES = 10_000
#: The first pause of a held topic; it doubles up to `probe_seconds`.
_FIRST_PAUSE_SECONDS = 0.1
#: Held topics are probed one after another, at most so often: however many there are, they cost a trickle.
_PROBES_PER_SECOND = 50.0
#: Outstanding confirms are awaited this long at the end; what is not confirmed stays due.
_FLUSH_SECONDS = 5.0


class RelaySettings(Struct, frozen=True, kw_only=True):
    """As the settings of these names say, each with `relay_` before it."""

    start: str
    unroutable: str
    window_messages: int
    window_bytes: int
    probe_seconds: float
    metrics_topics: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            start=settings.relay_from,
            unroutable=settings.relay_unroutable,
            window_messages=settings.relay_window_messages,
            window_bytes=settings.relay_window_bytes,
            probe_seconds=settings.relay_probe_seconds,
            metrics_topics=settings.metrics_topics,
        )


class Relay:
    """Moves a cursor per topic. It is at least once: see promise 5 of the README for what repeats look like."""

    name = "relay"

    def __init__(self, log: MessageLog, broker: BrokerPublisher, settings: RelaySettings, health: Health) -> None:
        self._log = log
        self._broker = broker
        self._settings = settings
        self._health = health
        self._least_room = max(1, settings.window_messages // _REFILLS)
        self._cursors: dict[str, int] = {}
        self._routes: dict[str, Route] = {}
        self._idle: OrderedDict[str, Route] = OrderedDict()
        self._turns: deque[Route] = deque()
        self._held: list[tuple[float, int, Route]] = []
        self._ticket = itertools.count()
        self._probe_timer: asyncio.TimerHandle | None = None
        self._last_probe = 0.0
        self._unroutable = 0
        self._messages = 0
        self._bytes = 0
        self._lag = 0  # messages stored and not confirmed, over all topics
        self._relayed = self._relayed_bytes = self._skipped = 0
        self._failures = dict.fromkeys(("unroutable", "undeliverable", "unread"), 0)
        self._moved = asyncio.Event()
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """Messages sent and not yet confirmed."""
        return self._messages

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        found = await self._log.cursors(READER)
        if found is None:
            found = await self._heads() if self._settings.start == "now" else {}
            self._log.save_cursors(READER, found)
        self._cursors = dict(found)
        self._unwatch = self._log.watch(self._due)
        self._due(await self._heads())
        self._task = self._loop.create_task(self._run(), name="relay")
        self._health.report("relay", State.OK)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwatch()
        self._stopping = True
        self._task.cancel()
        await asyncio.wait({self._task})
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                while self._messages:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            log.warning("confirms are outstanding, these messages are sent again at the next start", n=self._messages)
        if self._probe_timer is not None:
            self._probe_timer.cancel()

    async def wait(self) -> None:
        """Never returns; raises what ended the relay."""
        await asyncio.shield(self._task)

    def figures(self) -> Iterator[Figure]:
        now = self._loop.time()
        oldest = flowing = min(map(attrgetter("due_since"), self._routes.values()), default=now)
        if self._unroutable:
            flowing = min((route.due_since for route in self._routes.values() if not route.unroutable), default=now)
        yield vocabulary.RELAY_LAG_SECONDS.of(max(0.0, now - flowing))
        yield vocabulary.RELAY_OLDEST_SECONDS.of(max(0.0, now - oldest))
        yield from self._lags()
        yield vocabulary.RELAY_DUE.of(len(self._routes))
        yield vocabulary.RELAY_HELD.of(self._unroutable)
        yield vocabulary.RELAYED.of(self._relayed)
        yield vocabulary.RELAY_SKIPPED.of(self._skipped)
        for reason, count in self._failures.items():
            yield vocabulary.RELAY_FAILURES.of(count, reason)
        yield vocabulary.MESSAGES_OUT.of(self._relayed - self._skipped, "amqp")
        yield vocabulary.BYTES_OUT.of(self._relayed_bytes, "amqp")
        yield from bound("relay_messages", self._messages, self._settings.window_messages)
        yield from bound("relay_bytes", self._bytes, self._settings.window_bytes)

    def _lags(self) -> Iterator[Figure]:
        rest = self._lag
        for topic in self._log.first_topics(self._settings.metrics_topics):
            route = self._routes.get(topic)
            lag = 0 if route is None else route.head - route.cursor
            rest -= lag
            yield vocabulary.RELAY_LAG.of(lag, topic)
        yield vocabulary.RELAY_LAG.of(rest, vocabulary.OTHER)

    async def _heads(self) -> dict[str, int]:
        heads: dict[str, int] = {}
        after = ""
        while topics := await self._log.topics(after, 1000):
            heads.update((one.topic, one.head) for one in topics)
            after = topics[-1].topic
        return heads

    def _due(self, heads: Mapping[str, int]) -> None:
        now = self._loop.time()
        for topic, head in heads.items():
            route = self._routes.get(topic)
            if route is None:
                cursor = self._cursors.get(topic, 0)
                if head <= cursor:
                    continue
                route = self._idle.pop(topic) if topic in self._idle else Route(topic, cursor)
                self._routes[topic] = route
            self._lag += route.came(head, now)
            self._queue(route)

    def _queue(self, route: Route) -> None:
        """Give the route a turn if it can send something."""
        if route.ready and not self._stopping:
            route.queued = True
            self._turns.append(route)
            self._moved.set()

    async def _run(self) -> None:
        while True:
            await self._broker.ready()
            room = self._settings.window_messages - self._messages
            space = self._settings.window_bytes - self._bytes
            if not self._turns or room < self._least_room or space <= 0:
                self._moved.clear()
                await self._moved.wait()
                continue
            route = self._turns.popleft()
            if not route.held:  # else it failed while it waited for this turn
                await self._turn(route, min(room, _TURN_MESSAGES) if route.open else 1, min(space, _TURN_BYTES))
            route.queued = False
            self._queue(route)

    async def _turn(self, route: Route, limit: int, max_bytes: int) -> None:
        begun = route.round
        try:
            messages = await self._log.read(route.topic, route.sent, limit, max_bytes)
        except TriviumError as error:  # the log has told of it
            if route.round == begun:
                self._hold(route, error)
            return
        if route.round == begun:  # else it failed while we read
            for stored in messages:
                self._send(route, stored)

    def _send(self, route: Route, stored: StoredMessage) -> None:
        sent = Sent(stored, route.round)
        if route.in_flight is None:
            route.in_flight = deque()
        route.in_flight.append(sent)
        route.sent = stored.offset
        self._messages += 1
        self._bytes += sent.bytes
        self._broker.publish(stored).add_done_callback(lambda answer: self._answered(route, sent, answer))

    def _answered(self, route: Route, sent: Sent, answer: Future[None]) -> None:
        self._messages -= 1
        self._bytes -= sent.bytes
        self._moved.set()
        failure = Undeliverable("the broker gave it up") if answer.cancelled() else answer.exception()
        if sent.round != route.round:
            return
        skipped = isinstance(failure, Unroutable) and self._settings.unroutable == "skip"
        if skipped:
            self._skipped += 1
            log.warning("message is skipped, no queue takes it", topic=route.topic, offset=sent.offset)
        if failure is None or skipped:
            sent.confirmed = True
            self._relayed += 1
            self._relayed_bytes += 0 if skipped else sent.data_bytes
            self._advance(route)
        else:
            self._hold(route, failure)

    def _advance(self, route: Route) -> None:
        cursor = route.cursor
        while route.in_flight and route.in_flight[0].confirmed:
            cursor = route.in_flight.popleft().offset
        if cursor == route.cursor:
            return
        self._lag -= cursor - route.cursor
        route.confirmed(cursor)
        self._cursors[route.topic] = route.cursor
        self._log.save_cursors(READER, {route.topic: route.cursor})
        route.open = True
        route.failures = 0
        self._count_unroutable(route, False)
        if route.cursor < route.head:
            self._queue(route)
            return
        route.in_flight = None
        self._idle[route.topic] = self._routes.pop(route.topic)
        if len(self._idle) > _IDLE_ROUTES:
            self._idle.popitem(last=False)

    def _hold(self, route: Route, failure: BaseException) -> None:
        """Begin again at the cursor, with a probe, after a pause that grows."""
        self._failures[_reason(failure)] += 1
        route.round += 1
        route.in_flight = None
        route.sent = route.cursor
        route.open = False
        route.held = True
        self._count_unroutable(route, isinstance(failure, Unroutable))
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(route.failures, 20), self._settings.probe_seconds)
        route.failures += 1
        due = self._loop.time() + pause * random.uniform(0.75, 1.25)  # noqa: S311 - spreads probes
        if not route.unroutable:  # after a fault of the broker nobody waits behind the topics without a queue
            self._loop.call_at(due, self._resume, route)
            return
        heapq.heappush(self._held, (due, next(self._ticket), route))
        if self._held[0][2] is route:
            self._await_probe()

    def _await_probe(self) -> None:
        if self._probe_timer is not None:  # for a topic whose turn comes later
            self._probe_timer.cancel()
        if self._held and not self._stopping:
            at = max(self._held[0][0], self._last_probe + 1 / _PROBES_PER_SECOND)
            self._probe_timer = self._loop.call_at(at, self._probe)

    def _probe(self) -> None:
        self._probe_timer = None
        self._last_probe = self._loop.time()
        if self._held[0][0] <= self._last_probe:
            _, _, route = heapq.heappop(self._held)
            self._resume(route)
        self._await_probe()

    def _resume(self, route: Route) -> None:
        route.held = False
        self._queue(route)

    def _count_unroutable(self, route: Route, unroutable: bool) -> None:
        if route.unroutable == unroutable:
            return
        before = self._unroutable
        route.unroutable = unroutable
        self._unroutable += 1 if unroutable else -1
        if not before:
            log.info("topics are held until a queue is bound for them", first=route.topic)
        elif not self._unroutable:
            log.info("no topic is held any more")
        held = f"{self._unroutable} topics are held, no queue takes their messages" if self._unroutable else ""
        self._health.report("relay", State.OK, held)


def _reason(failure: BaseException) -> str:
    """As metrics tell it."""
    if isinstance(failure, TriviumError):
        return "unread"
    return "unroutable" if isinstance(failure, Unroutable) else "undeliverable"
