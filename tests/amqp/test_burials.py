"""What is acknowledged when, by a channel and dead letters that a test holds."""

import asyncio
from asyncio import Event
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidArgument, TriviumError
from tests.amqp.conftest import until
from transports.amqp.burials import Burials
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.deadletters import DeadLetters
from transports.amqp.frames import Delivery
from transports.amqp.window import Window

BAD = InvalidArgument("bad")


class Queue:
    """Holds deliveries until they are acknowledged, by the rules of RabbitMQ."""

    def __init__(self) -> None:
        self.unacknowledged: list[int] = []
        self.lost = False

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        if self.lost:
            raise ChannelLost("gone")
        assert tag in self.unacknowledged, "RabbitMQ closes the channel: an unknown delivery tag"
        self.unacknowledged = [one for one in self.unacknowledged if one > tag or (one < tag and not multiple)]


class Graves:
    """Takes dead letters while `open`."""

    def __init__(self) -> None:
        self.open = Event()
        self.buried: list[int] = []

    async def bury(self, dead: Sequence[tuple[Delivery, TriviumError]]) -> None:
        await self.open.wait()
        self.buried += [delivery.tag for delivery, _ in dead]


class Bench:
    """`settle` takes a letter for each delivery: `s` is stored, `d` is dead."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.graves = Graves()
        self.window = Window()
        self.told: list[str] = []
        self.burials = Burials(cast(Channel, self.queue), self.window, cast(DeadLetters, self.graves), self.told.append)
        self.deliveries = 0

    def settle(self, letters: str) -> None:
        settled: list[Any] = []
        for letter in letters:
            self.deliveries += 1
            delivery = Delivery(self.deliveries, "", "", b"", b"body")
            self.queue.unacknowledged.append(delivery.tag)
            self.window.receive(delivery)
            settled.append((delivery, BAD if letter == "d" else None))
        self.burials.settle(settled)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with bench.burials:
        yield bench


async def test_what_is_stored_does_not_wait_for_what_is_buried(bench: Bench) -> None:
    """Nor do those that come later; what waits counts as held, and is acknowledged once it is buried."""
    for letters in ("ss", "sdsds", "sss", "d"):
        bench.settle(letters)
    assert bench.queue.unacknowledged == [4, 6, 11]
    assert bench.window.bytes == 3 * len(b"body")
    assert not bench.burials.finished.is_set()
    bench.graves.open.set()
    await bench.burials.finished.wait()
    assert bench.graves.buried == [4, 6, 11]
    assert bench.queue.unacknowledged == []
    assert bench.window.bytes == 0


async def test_dead_letters_that_wait_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it is over."""
    monkeypatch.setattr("transports.amqp.burials._LATE_SECONDS", 0.01)
    bench.settle("d")
    await until(lambda: bench.told == ["RabbitMQ does not take dead letters"])
    bench.graves.open.set()
    await until(lambda: bench.told[1:] == [""])


async def test_what_is_not_buried_at_the_end_comes_again() -> None:
    """It is not acknowledged, and nobody waits for it any more."""
    bench = Bench()
    async with bench.burials:
        bench.settle("sd")
    assert bench.queue.unacknowledged == [2]
    assert bench.burials.finished.is_set()


async def test_a_channel_that_is_lost_is_no_defect(bench: Bench) -> None:
    """What was buried can not be acknowledged any more, and comes again."""
    bench.settle("d")
    bench.queue.lost = True
    bench.graves.open.set()
    await bench.burials._task
    bench.queue.lost = False
    bench.settle("")


async def test_a_defect_of_the_burials_is_raised(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the next messages are settled."""

    async def broken(dead: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.graves, "bury", broken)
    bench.settle("d")
    await asyncio.wait({bench.burials._task})
    with pytest.raises(ZeroDivisionError):
        bench.settle("s")


@given(st.lists(st.tuples(st.text("sd", max_size=5), st.booleans()), max_size=10))
def test_whatever_is_settled_is_acknowledged_once(course: list[tuple[str, bool]]) -> None:
    """Never before it is settled, in whichever order RabbitMQ takes dead letters."""

    async def run() -> None:
        bench = Bench()
        async with bench.burials:
            for letters, opens in course:
                before = bench.deliveries
                bench.settle(letters)
                dead = {before + at for at, letter in enumerate(letters, 1) if letter == "d"}
                assert dead <= set(bench.queue.unacknowledged)
                if opens:
                    bench.graves.open.set()
                    await bench.burials.finished.wait()
                    bench.graves.open.clear()
                    assert bench.queue.unacknowledged == []
            bench.graves.open.set()
            await bench.burials.finished.wait()
            assert bench.queue.unacknowledged == []

    asyncio.run(run())
