"""What waits, and its end."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import pytest

from core import deadlines
from core.closing import Closing
from core.errors import DeadlineExceeded
from tests.core.opening import alive


async def waits(closing: Closing, until: float | None = None) -> str:
    async with closing.until(until):
        await asyncio.Event().wait()
    return "left"


async def test_what_waits_is_left() -> None:
    """What waits when it begins, and what comes later."""
    closing = Closing()
    waiting = asyncio.create_task(waits(closing))
    await asyncio.sleep(0)
    closing.begin()
    async with asyncio.timeout(10):
        assert await waiting == await waits(closing) == "left"


async def test_what_waits_may_have_an_end_of_its_own() -> None:
    """Which leaves the block as well, and others alone."""
    async with asyncio.timeout(10):
        assert await waits(Closing(), asyncio.get_running_loop().time()) == "left"


class Held:
    """What somebody has in hands who waits."""


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("until", [Closing().until, deadlines.until])
async def test_what_was_left_is_let_go(until: Callable[[float], AbstractAsyncContextManager[None]]) -> None:
    """At once, on every Python."""

    async def wait(held: Held) -> None:
        with suppress(DeadlineExceeded):
            async with until(asyncio.get_running_loop().time()):
                await asyncio.Event().wait()

    await asyncio.create_task(wait(Held()))
    assert not alive(Held)


async def test_what_is_on_its_way_out_is_left_alone() -> None:
    """A timeout that has fired, in a block that was not told yet, can't fire again: that would be an error."""
    closing = Closing()
    scope = asyncio.timeout(None)

    async def ends_itself() -> None:
        async with scope:
            with closing.ends(scope):
                scope.reschedule(0)
                await asyncio.Event().wait()

    waiting = asyncio.create_task(ends_itself())
    while not scope.expired():  # noqa: ASYNC110 - a turn of the loop before the task hears of it
        await asyncio.sleep(0)
    assert not waiting.done()
    closing.begin()
    await asyncio.wait({waiting})
    assert isinstance(waiting.exception(), TimeoutError)


async def test_two_ends_at_once_are_one() -> None:
    """A block that is in both is left without a trace of either."""
    one, other = Closing(), Closing()

    async def both() -> str:
        async with one.until(), other.until():
            await asyncio.Event().wait()
        return "left"

    waiting = asyncio.create_task(both())
    await asyncio.sleep(0)
    one.begin()
    other.begin()
    async with asyncio.timeout(10):
        assert await waiting == "left"
    assert not waiting.cancelling()
