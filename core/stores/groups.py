"""Group commit: everything that waits is committed at once, by one thread, with one wake-up of the loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

import structlog

from core.errors import DeadlineExceeded, Internal, Overloaded, TriviumError, Unavailable
from core.messages import Message, Published, held_by
from core.stores.runs import Run
from core.telemetry import vocabulary
from core.telemetry.figures import Figure, Histogram
from core.telemetry.metrics import bound

log = structlog.get_logger("trivium.store")

#: A group is handed over once this many turns of the loop brought nothing new, it lingered this
#: long, or it grew this large: a lone caller waits some 50 us for company, a crowd is let in.
_QUIET_TURNS = 8
_LINGER_SECONDS = 0.002
_LINGER_UNITS = 512
#: The thread tidies up after it was idle this long.
_IDLE_SECONDS = 0.05
#: Cursors that no group took along are written after this time.
_CURSOR_SECONDS = 1.0

Cursors: TypeAlias = Mapping[str, Mapping[str, int]]


class StoreBroken(Exception):
    """The store can't tell any more what is durable; only a restart finds out."""


class Unit:
    """What one caller publishes: all or nothing. The committer fills in what became of it."""

    __slots__ = ("bytes", "error", "future", "messages", "published", "stored", "topic")

    def __init__(
        self, topic: str, messages: Sequence[Message], size: int, future: asyncio.Future[tuple[Published, ...]]
    ) -> None:
        self.topic = topic
        self.messages = tuple(messages)  # the caller's list stays its own
        self.bytes = held_by(messages, size)
        self.future = future
        self.published: tuple[Published, ...] = ()
        self.stored: Run | None = None
        self.error: TriviumError | None = None

    def settle(self, failure: TriviumError | None) -> None:
        """Answer the caller, unless it has gone."""
        if self.future.done():
            return
        if error := failure or self.error:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.published)


#: Told of a group, of the seconds that its commit took, and why it failed if it did.
GroupObserver: TypeAlias = Callable[[Sequence[Unit], float, TriviumError | None], None]


class Committer(Protocol):
    """What the thread does; called on that thread alone, and never again after it raised `StoreBroken`."""

    def commit(self, units: Sequence[Unit], cursors: Cursors) -> None:
        """Make a group durable and fill in its units.

        Raises `Unavailable` if nothing of the group was stored, `StoreBroken` if that is unknown.
        """

    def tidy(self, *, idle: bool) -> None:
        """Do the upkeep that is due: after every group, and once more when nothing waits. Raises `StoreBroken`."""


class GroupCommit:
    """Collects units on the loop and has one group at a time committed on the thread."""

    def __init__(
        self,
        committer: Committer,
        *,
        max_bytes: int,
        commit_seconds: float,
        committed: Callable[[Sequence[Unit]], None],
        failed: Callable[[TriviumError | None], None],
        traced: GroupObserver | None = None,
    ) -> None:
        """`committed` is called on the loop with each durable group, before its callers are answered.

        `failed` is told why a group failed, and None after one that did not. `traced` is told of every group.
        """
        self._traced = traced
        self.groups = 0
        self.messages = 0
        self._duplicates = 0
        self._failures = 0
        self._sizes = Histogram(vocabulary.MESSAGES)
        self._seconds = Histogram(vocabulary.SECONDS)
        self._handed_at = 0.0
        self._committer = committer
        self._max_bytes = max_bytes
        self._commit_seconds = commit_seconds
        self._committed = committed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._handed: SimpleQueue[tuple[Sequence[Unit], Cursors] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trivium-writer", daemon=True)
        self._pending: list[Unit] = []
        self._cursors: dict[str, dict[str, int]] = {}
        self._cursor_timer: asyncio.TimerHandle | None = None
        self._bytes = 0
        self._lingering = False
        self._in_flight: Sequence[Unit] | None = None
        self._seen = 0
        self._quiet = 0
        self._linger_end = 0.0
        self._closing = False
        self._finished = asyncio.Event()
        self._broken: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        self._thread.start()

    def submit(self, topic: str, messages: Sequence[Message], size: int) -> asyncio.Future[tuple[Published, ...]]:
        """Queue a unit; order of calls is order of commit. Raises `Overloaded` or `Unavailable`."""
        if self._closing or self._broken.done():
            raise Unavailable("the store takes nothing any more, the service is stopping")
        unit = Unit(topic, messages, size, self._loop.create_future())
        if self._bytes and self._bytes + unit.bytes > self._max_bytes:
            raise Overloaded(f"{self._bytes} bytes wait for their commit, at most {self._max_bytes} may")
        self._bytes += unit.bytes
        self._pending.append(unit)
        if self._in_flight is None and not self._lingering:
            self._linger()
        return unit.future

    def save_cursors(self, reader: str, cursors: Mapping[str, int]) -> None:
        """Take cursors along with the next group, or make one for them."""
        self._cursors.setdefault(reader, {}).update(cursors)
        if self._cursor_timer is None:
            self._cursor_timer = self._loop.call_later(_CURSOR_SECONDS, self._cursors_due)

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.COMMITS.of(self.groups)
        yield vocabulary.COMMIT_FAILURES.of(self._failures)
        yield vocabulary.COMMIT_SECONDS.of(self._seconds)
        yield vocabulary.COMMIT_MESSAGES.of(self._sizes)
        yield vocabulary.STORED.of(self.messages)
        yield vocabulary.DUPLICATES.of(self._duplicates)
        yield from bound("uncommitted_bytes", self._bytes, self._max_bytes)

    async def wait(self) -> None:
        """Never returns; raises `StoreBroken` once the store is."""
        await asyncio.shield(self._broken)

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        self._closing = True
        if self._thread.is_alive():
            self._next()
            await self._finished.wait()
            self._handed.put(None)
            await asyncio.to_thread(self._thread.join)
        self._broken.cancel()

    def _linger(self) -> None:
        self._lingering = True
        self._seen = 0
        self._quiet = 0
        self._linger_end = self._loop.time() + _LINGER_SECONDS
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        waiting = len(self._pending)
        self._quiet = self._quiet + 1 if waiting == self._seen else 0
        self._seen = waiting
        if self._quiet < _QUIET_TURNS and waiting < _LINGER_UNITS and self._loop.time() < self._linger_end:
            self._loop.call_soon(self._turn)
            return
        self._lingering = False
        if self._in_flight is None and self._pending:  # a timer for cursors may have come first
            self._hand_over()

    def _hand_over(self) -> None:
        units, cursors = self._pending, self._cursors
        self._pending, self._cursors = [], {}
        if self._cursor_timer is not None:
            self._cursor_timer.cancel()
            self._cursor_timer = None
        self._in_flight = units
        self._handed_at = self._loop.time()
        self._deadline = self._loop.call_later(self._commit_seconds, self._late)
        self._handed.put((units, cursors))

    def _cursors_due(self) -> None:
        self._cursor_timer = None
        if self._in_flight is None and not self._broken.done():
            self._hand_over()  # else the next group takes them along

    def _late(self) -> None:
        """The disk hangs: everybody is told, and who was not handed over yet is let go."""
        late = DeadlineExceeded(f"no commit within {self._commit_seconds:g} s")
        log.error("commit takes too long", seconds=self._commit_seconds, waiting=len(self._pending))
        self._failed(late)
        for unit in (*(self._in_flight or ()), *self._pending):
            unit.settle(late)
        self._bytes -= sum(unit.bytes for unit in self._pending)
        self._pending = []
        self._deadline = self._loop.call_later(self._commit_seconds, self._late)

    def _done(self, units: Sequence[Unit], cursors: Cursors, failure: Exception | None) -> None:
        self._deadline.cancel()
        self._in_flight = None
        self._bytes -= sum(unit.bytes for unit in units)
        error: TriviumError | None = None
        if failure is None:
            self._count(units)
            self._committed(units)
        elif isinstance(failure, TriviumError):
            error = failure.bare()
            self._keep(cursors)
        elif isinstance(failure, StoreBroken):
            error = Unavailable("the store is broken, the outcome is unknown")
            self._break(failure)
        else:
            error = Internal("the commit failed, the outcome is unknown")
            log.error("commit failed", exc_info=failure)
        self._failures += error is not None
        if self._traced is not None:
            self._traced(units, self._loop.time() - self._handed_at, error)
        self._failed(error)
        for unit in units:
            unit.settle(error)
        self._next()

    def _count(self, units: Sequence[Unit]) -> None:
        stored = published = 0
        for unit in units:
            stored += len(unit.stored.messages) if unit.stored is not None else 0
            published += len(unit.published)
        self.groups += 1
        self.messages += stored
        self._duplicates += published - stored
        self._sizes.observe(stored)
        self._seconds.observe(self._loop.time() - self._handed_at)

    def _keep(self, cursors: Cursors) -> None:
        """Cursors of a group that failed are due again, unless newer ones came."""
        if not self._closing:
            for reader, offsets in cursors.items():
                self.save_cursors(reader, {**offsets, **self._cursors.get(reader, {})})

    def _break(self, failure: StoreBroken) -> None:
        """The thread has ended: whoever waits is answered, also for a group that it did not take any more."""
        log.critical("the store is broken", reason=str(failure))
        self._broken.set_exception(failure)
        gone = Unavailable("the store is broken, the outcome is unknown")
        self._failed(gone)
        if self._in_flight is not None:
            self._deadline.cancel()
        for unit in (*(self._in_flight or ()), *self._pending):
            unit.settle(gone)
        self._in_flight = None
        self._pending = []
        self._cursors = {}
        self._next()

    def _next(self) -> None:
        if self._in_flight is not None:
            return
        if self._pending:
            if not self._lingering:
                self._linger()
        elif self._closing and self._cursors and not self._broken.done():
            self._hand_over()
        elif self._closing:
            self._finished.set()
        elif self._cursors and self._cursor_timer is None:
            self._hand_over()

    def _run(self) -> None:
        timeout: float | None = _IDLE_SECONDS
        while True:
            try:
                handed = self._handed.get(timeout=timeout)
            except Empty:
                timeout = None
                if not self._upkeep(idle=True):
                    return
                continue
            if handed is None or not self._commit(*handed) or not self._upkeep(idle=False):
                return
            del handed  # or its messages would stay in memory until the next group
            timeout = _IDLE_SECONDS

    def _commit(self, units: Sequence[Unit], cursors: Cursors) -> bool:
        """Whether the store goes on."""
        try:
            self._committer.commit(units, cursors)
        except Exception as error:  # noqa: BLE001 - `_done` decides what it means
            self._loop.call_soon_threadsafe(self._done, units, cursors, error)
            return not isinstance(error, StoreBroken)
        self._loop.call_soon_threadsafe(self._done, units, cursors, None)
        return True

    def _upkeep(self, *, idle: bool) -> bool:
        """Whether the store goes on. It does not after an error that nobody thought of, or the log would grow."""
        try:
            self._committer.tidy(idle=idle)
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence leaves everybody waiting
            broken = error if isinstance(error, StoreBroken) else StoreBroken(f"the upkeep failed: {error!r}")
            self._loop.call_soon_threadsafe(self._break, broken)
            return False
        return True
