"""The newest messages of every topic in memory, shared by everybody who reads them."""

import asyncio
from collections import deque
from collections.abc import Iterable

from core.messages import StoredMessage, weight

#: The Python objects around a message, in bytes, measured with tracemalloc.
_OBJECTS = 600


class _Tail:
    """The messages up to the head of one topic, without a gap, and who waits for the next one."""

    __slots__ = ("messages", "moved", "topic", "waiting")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.messages: deque[StoredMessage] = deque()
        self.moved = asyncio.Event()
        self.waiting = 0


class Tails:
    """Heads and newest messages per topic, bounded in bytes over all topics; the oldest leave first."""

    def __init__(self, max_bytes: int) -> None:
        self.heads: dict[str, int] = {}
        self.messages = 0  # the sum of the heads
        self.bytes = 0
        self.max_bytes = max_bytes
        self._tails: dict[str, _Tail] = {}
        #: Each message that is here, as its tail and its size: to weigh old ones again reads memory that is cold.
        self._arrivals: deque[tuple[_Tail, int]] = deque()
        self._released = False

    def begin(self, heads: dict[str, int]) -> None:
        """Take over the heads of a log that is being opened."""
        self.heads = heads
        self.messages = sum(heads.values())

    def extend(self, stored: Iterable[StoredMessage]) -> dict[str, int]:
        """Take in what was committed, in offset order per topic; the answer is the new head of each topic."""
        moved: dict[str, int] = {}
        for one in stored:
            self._add(one)
            moved[one.topic] = one.offset
            self.messages += 1
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
        if self.heads.get(newest.topic) == newest.offset and (tail is None or not tail.messages):
            self._add(newest)
            self._evict()

    def newest(self, topic: str) -> StoredMessage | None:
        """The newest message of `topic`, if it is in memory."""
        tail = self._tails.get(topic)
        return tail.messages[-1] if tail is not None and tail.messages else None

    def after(self, topic: str, cursor: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...] | None:
        """Messages after `cursor` as `MessageLog.read` gives them, or None if the first of them is on disk only."""
        behind = self.heads.get(topic, 0) - cursor
        if behind <= 0:
            return ()
        tail = self._tails.get(topic)
        if tail is None or len(tail.messages) < behind:
            return None
        found: list[StoredMessage] = []
        size = 0
        for index in range(-behind, min(limit, behind) - behind):  # a deque is indexed fast from its end
            one = tail.messages[index]
            size += weight(one.message)
            if found and size > max_bytes:
                break
            found.append(one)
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

    def _add(self, one: StoredMessage) -> None:
        tail = self._tail(one.topic)
        size = weight(one.message) + _OBJECTS
        tail.messages.append(one)
        self._arrivals.append((tail, size))
        self.bytes += size

    def _evict(self) -> None:
        while self.bytes > self.max_bytes:
            tail, size = self._arrivals.popleft()
            self.bytes -= size
            tail.messages.popleft()
            self._drop_if_idle(tail)

    def _drop_if_idle(self, tail: _Tail) -> None:
        if not tail.messages and not tail.waiting:
            self._tails.pop(tail.topic, None)
