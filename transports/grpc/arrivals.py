"""Requests that are waited for, each no longer than the others."""

import asyncio
import math
from asyncio import Task, TimerHandle
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

#: Time for the one request of a call to arrive; stops slow senders.
SECONDS = 30.0

T = TypeVar("T")


class Arrivals:
    """Ends waits that take too long, and all of them once nothing is waited for any more.

    They are due in the order in which they began. So one timer does for all, and is hardly ever set: `asyncio.timeout`
    around each request was a tenth of the CPU of a `Publish`.
    """

    def __init__(self) -> None:
        self._due: dict[Task[object], float] = {}
        self._timer: TimerHandle | None = None
        self.ended = False

    async def wait(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` reads; `TimeoutError` if that took too long."""
        if self.ended:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        task = cast(Task[object], asyncio.current_task())
        due = self._due[task] = loop.time() + SECONDS
        if self._timer is None:
            self._timer = loop.call_at(due, self._check)
        try:
            return await read()
        except asyncio.CancelledError:
            if task in self._due or task.uncancel():  # not by us, or not by us alone
                raise
            raise TimeoutError from None
        finally:
            self._due.pop(task, None)

    def end(self) -> None:
        """Nothing is waited for any more."""
        self.ended = True
        self._cancel(math.inf)
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._cancel(loop.time())
        self._timer = None
        for due in self._due.values():
            self._timer = loop.call_at(due, self._check)
            break

    def _cancel(self, now: float) -> None:
        for task, due in list(self._due.items()):
            if due > now:
                break
            del self._due[task]
            task.cancel()
