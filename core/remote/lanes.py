"""Publishing over a wire in the order of the calls.

Requests that are on their way together may arrive in any order, and a repeated one later than its successors. So there
is one request at a time for each topic and credential, and what is published meanwhile travels in the next one, as in a
group commit.
"""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import TypeAlias

import structlog

from core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Overloaded,
    TooLarge,
    TriviumError,
    UnsupportedMediaType,
)
from core.limits import Limits
from core.messages import Message, Published

log = structlog.get_logger("trivium.remote")

#: Answers to one message of a request: the others are tried without it.
_OF_ONE_MESSAGE = (Conflict, InvalidArgument, TooLarge, UnsupportedMediaType)

#: What a message is counted as beside its bytes.
_MESSAGE_BYTES = 500

#: Asks the core to publish as (authorization, topic, messages, deadline).
Publish: TypeAlias = Callable[[str | None, str, Sequence[Message], float], Awaitable[tuple[Published, ...]]]
_Name: TypeAlias = tuple[str | None, str]


class _Call:
    """One call of `publish` that is not answered yet."""

    __slots__ = ("answer", "cost", "deadline", "messages", "size", "timer")

    def __init__(self, messages: Sequence[Message], size: int, cost: int, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self.messages = messages
        self.size = size
        self.cost = cost
        self.deadline = deadline
        self.answer: Future[tuple[Published, ...]] = loop.create_future()
        self.timer = loop.call_at(deadline, self.expire)
        self.answer.add_done_callback(self._forget_timer)

    def fail(self, error: TriviumError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the core took too long; the outcome is unknown"))

    def _forget_timer(self, _: object) -> None:
        self.timer.cancel()


class Lanes:
    """The queues of what is to be published, bounded in bytes over all of them."""

    def __init__(self, publish: Publish, limits: Limits, *, max_bytes: int) -> None:
        """`publish` is called for one group at a time in each lane."""
        self.bytes = 0
        self._publish = publish
        self._limits = limits
        self._max_bytes = max_bytes
        self._lanes: dict[_Name, deque[_Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self, authorization: str | None, topic: str, messages: Sequence[Message], size: int, deadline: float
    ) -> Future[tuple[Published, ...]]:
        """Publish checked messages of `size` bytes after what was added before; `Overloaded` if too much waits."""
        cost = size + _MESSAGE_BYTES * len(messages)
        if self.bytes + cost > self._max_bytes:
            raise Overloaded(f"{self._max_bytes} bytes wait for the core, which is the most")
        self.bytes += cost
        call = _Call(messages, size, cost, deadline)
        lane = self._lanes.get((authorization, topic))
        if lane is not None:
            lane.append(call)
            return call.answer
        self._lanes[authorization, topic] = deque([call])
        # Without the context of whoever came first: the lane works for many.
        task = asyncio.create_task(self._empty((authorization, topic)), name="remote-lane", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call.answer

    async def close(self) -> None:
        """Give up what is unanswered."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _empty(self, name: _Name) -> None:
        lane = self._lanes[name]
        group: list[_Call] = []
        try:
            while lane:
                group = self._next_group(lane)
                try:
                    await self._send(name, group)
                finally:
                    self.bytes -= sum(call.cost for call in group)
        except Exception:
            log.exception("publishing failed", topic=name[1])
        finally:
            del self._lanes[name]
            self.bytes -= sum(call.cost for call in lane)
            for call in (*group, *lane):
                call.fail(Internal("publishing broke off; the outcome is unknown"))

    def _next_group(self, lane: deque[_Call]) -> list[_Call]:
        """As much as one request may hold, at least one call."""
        group = [lane.popleft()]
        count, size = len(group[0].messages), group[0].size
        while lane:
            count += len(lane[0].messages)
            size += lane[0].size
            if count > self._limits.batch_messages or size > self._limits.batch_bytes:
                break
            group.append(lane.popleft())
        return group

    async def _send(self, name: _Name, group: list[_Call]) -> None:
        """Publish a group and answer its calls. What is too late is left out; who went away is not: it was begun."""
        now = asyncio.get_running_loop().time()
        for call in group:
            if call.deadline <= now:  # its timer is due, and may not have had its turn yet
                call.expire()
        group = [call for call in group if now < call.deadline]
        if not group:
            return
        messages = [message for call in group for message in call.messages]
        try:
            published = await self._publish(*name, messages, max(call.deadline for call in group))
        except TriviumError as error:
            if len(group) > 1 and isinstance(error, _OF_ONE_MESSAGE):
                for call in group:
                    await self._send(name, [call])
                return
            for call in group:
                call.fail(error.bare())
            return
        begin = 0
        for call in group:
            end = begin + len(call.messages)
            if not call.answer.done():
                call.answer.set_result(published[begin:end])
            begin = end
