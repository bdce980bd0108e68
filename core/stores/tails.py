"""The newest messages of every topic in memory, shared by everybody who reads them."""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from operator import attrgetter

from core.messages import StoredMessage, held, weight
from core.stores.runs import Run

#: Runs of one commit are joined up to here: then there is less to keep, and to throw out, for each message.
_RUN_BYTES = 64 * 1024
_first = attrgetter("first")
#: A run that is more than this part of all that is kept is cut up, so that not all of it leaves at once.
_LARGEST_PART = 8


class _Tail:
    """The runs up to the head of one topic, without a gap, and who waits for the next one."""

    __slots__ = ("moved", "runs", "topic", "waiting")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.runs: deque[Run] = deque()
        self.moved = asyncio.Event()
        self.waiting = 0


class Tails:
    """Heads and newest messages per topic, bounded in bytes over all topics; the oldest runs leave first, in whole."""

    def __init__(self, max_bytes: int) -> None:
        self.heads: dict[str, int] = {}
        self.messages = 0  # the sum of the heads
        self.bytes = 0
        self.max_bytes = max_bytes
        self._tails: dict[str, _Tail] = {}
        self._arrivals: deque[Run] = deque()
        self._released = False

    def begin(self, heads: dict[str, int]) -> None:
        """Take over the heads of a log that is being opened."""
        self.heads = heads
        self.messages = sum(heads.values())

    def extend(self, runs: Iterable[Run]) -> dict[str, int]:
        """Take in what was committed, in offset order per topic; the answer is the new head of each topic."""
        newest: dict[str, Run] = {}
        for run in runs:
            self.messages += len(run.messages)
            before = newest.get(run.topic)
            if before is None:
                newest[run.topic] = run
            elif before.time is run.time and before.bytes + run.bytes <= _RUN_BYTES:
                newest[run.topic] = before.joined(run)
            else:
                self._add(before)
                newest[run.topic] = run
        for run in newest.values():
            self._add(run)
        moved = {topic: run.first + len(run.messages) - 1 for topic, run in newest.items()}
        self.heads.update(moved)
        for topic in moved:
            tail = self._tails[topic]
            if tail.waiting:
                tail.moved.set()
                tail.moved = asyncio.Event()
        self._evict()
        return moved

    def remember(self, newest: StoredMessage) -> None:
        """Keep a topic's newest message that was read from disk."""
        tail = self._tails.get(newest.topic)
        if self.heads.get(newest.topic) == newest.offset and (tail is None or not tail.runs):
            message = newest.message
            self._add(Run(newest.topic, newest.offset, newest.time, (message,), held(message)))
            self._evict()

    def newest(self, topic: str) -> StoredMessage | None:
        """The newest message of `topic`, if it is in memory."""
        tail = self._tails.get(topic)
        return tail.runs[-1].newest() if tail is not None and tail.runs else None

    def after(self, topic: str, cursor: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...] | None:
        """Messages after `cursor` as `MessageLog.read` gives them, or None if the first of them is on disk only."""
        behind = self.heads.get(topic, 0) - cursor
        if behind <= 0:
            return ()
        tail = self._tails.get(topic)
        if tail is None or not tail.runs or tail.runs[0].first > cursor + 1:
            return None
        runs = tail.runs
        begin = len(runs) - 1
        if runs[begin].first > cursor + 1:
            # each run holds a message at least, so it is none of those further from the end, where a deque is slow
            begin = bisect_right(runs, cursor + 1, max(len(runs) - behind, 0), key=_first) - 1
        skipped = cursor + 1 - runs[begin].first
        found: list[StoredMessage] = []
        size = 0
        for index in range(begin, len(runs)):
            for one in runs[index].places()[skipped : skipped + limit - len(found)]:
                size += weight(one.message)
                if found and size > max_bytes:
                    return tuple(found)
                found.append(one)
            if len(found) == limit:
                break
            skipped = 0
        return tuple(found)

    async def beyond(self, topic: str, cursor: int) -> None:
        """Return once the head of `topic` is above `cursor`, or everybody is released."""
        tail = self._tail(topic)
        tail.waiting += 1
        try:
            while self.heads.get(topic, 0) <= cursor and not self._released:
                await tail.moved.wait()
        finally:
            tail.waiting -= 1
            self._drop_if_idle(tail)

    def release(self) -> None:
        """Let everybody go who waits, now and from now on."""
        self._released = True
        for tail in self._tails.values():
            tail.moved.set()

    def _tail(self, topic: str) -> _Tail:
        tail = self._tails.get(topic)
        if tail is None:
            tail = self._tails[topic] = _Tail(topic)
        return tail

    def _add(self, run: Run) -> None:
        runs = self._tail(run.topic).runs
        for part in run.parts(self.max_bytes // _LARGEST_PART):
            runs.append(part)
            self._arrivals.append(part)
            self.bytes += part.bytes

    def _evict(self) -> None:
        while self.bytes > self.max_bytes:
            oldest = self._arrivals.popleft()
            self.bytes -= oldest.bytes
            tail = self._tails[oldest.topic]
            tail.runs.popleft()
            self._drop_if_idle(tail)

    def _drop_if_idle(self, tail: _Tail) -> None:
        if not tail.runs and not tail.waiting:
            self._tails.pop(tail.topic, None)
