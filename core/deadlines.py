"""How long whoever asked is willing to wait, known to everything that works for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from core.errors import DeadlineExceeded, let_go

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def begin(seconds: float | None) -> None:
    """Set the deadline of what this task does from now on, if there is one; somebody else enforces it."""
    if seconds is not None:
        _deadline.set(asyncio.get_running_loop().time() + seconds)


def deadline() -> float | None:
    """When time is up, by the clock of the loop; None if nobody said."""
    return _deadline.get()


def remaining() -> float | None:
    """The seconds that are left, None if nobody said."""
    until = _deadline.get()
    return None if until is None else max(0.0, until - asyncio.get_running_loop().time())


@asynccontextmanager
async def until(when: float) -> AsyncIterator[None]:
    """Run the block, which knows of the deadline `when`; `DeadlineExceeded` if it is not done by then.

    A deadline that was set before holds where it is sooner.
    """
    before = _deadline.get()
    when = when if before is None else min(when, before)
    token = _deadline.set(when)
    scope = asyncio.timeout_at(when)
    try:
        async with scope:
            yield
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise DeadlineExceeded("the time that was given is over; the outcome is unknown") from let_go(error)
    finally:
        _deadline.reset(token)
