"""Waiting for requests."""

import asyncio

import pytest

from tests.grpc_door.clients import until
from transports.grpc import arrivals
from transports.grpc.arrivals import Arrivals


async def forever() -> None:
    await asyncio.Event().wait()


async def test_what_arrives_is_given() -> None:
    """A wait ends with what was read, and leaves nothing behind."""
    waits = Arrivals()

    async def read() -> int:
        await asyncio.sleep(0)
        return 7

    assert await waits.wait(read) == 7
    waits.end()


async def test_waits_end_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timer serves waits that began at different times, also those that began after it was set."""
    monkeypatch.setattr(arrivals, "SECONDS", 0.05)
    waits = Arrivals()
    for _ in range(2):
        first = asyncio.create_task(waits.wait(forever))
        await asyncio.sleep(0)
        second = asyncio.create_task(waits.wait(forever))
        for wait in (first, second):
            with pytest.raises(TimeoutError):
                await wait


async def test_a_task_goes_on_after_its_wait_has_ended() -> None:
    """Whoever was told that nothing arrives is not cancelled."""
    waits = Arrivals()

    async def serve() -> str:
        with pytest.raises(TimeoutError):
            await waits.wait(forever)
        await asyncio.sleep(0)
        return "served"

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0)
    waits.end()
    assert await serving == "served"
    with pytest.raises(TimeoutError):
        await waits.wait(forever)


@pytest.mark.parametrize("ends_too", [False, True])
async def test_a_task_that_is_cancelled_by_others_stays_so(ends_too: bool) -> None:
    """A wait that the peer gave up is cancelled, also where it would end at the same time."""
    waits = Arrivals()
    waiting = asyncio.create_task(waits.wait(forever))
    await asyncio.sleep(0)
    waiting.cancel()
    if ends_too:
        waits.end()
    await until(waiting.done)
    assert waiting.cancelled()
    waits.end()
