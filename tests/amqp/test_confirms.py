"""Confirms, by frames that a broker could send in any order."""

import asyncio
from asyncio import Future
from typing import Any, cast
from unittest import mock

import pytest
from pika.frame import Method
from pika.spec import Basic

from core.ports import Undeliverable, Unroutable
from tests.amqp.conftest import until
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.confirms import Confirms, Settled


class Wire:
    """A channel that keeps what is published to itself."""

    def __init__(self) -> None:
        self.raw = self.connection = self
        self.lost: Future[ChannelLost] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.heard = 0
        self.cut_for: Exception | None = None
        self.failure: Exception | None = None

    def publish(self, *arguments: Any, **_: Any) -> None:
        if self.failure is not None:
            raise self.failure

    def cut(self, reason: Exception) -> None:
        self.cut_for = reason


class Bench:
    def __init__(self, seconds: float = 60) -> None:
        self.wire = Wire()
        self.confirms = Confirms(cast(Channel, self.wire), seconds, lambda key, _: key, Settled("out"))

    def publish(self, key: str | None = None) -> Future[None]:
        return self.confirms.publish("e", key or "", b"", b"", key)

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.confirms._on_confirm(Method(1, Basic.Ack(tag, multiple)))

    def nack(self, tag: int, multiple: bool = False) -> None:
        self.confirms._on_confirm(Method(1, Basic.Nack(tag, multiple)))

    def returned(self, key: str) -> None:
        self.confirms._on_return(None, Basic.Return(312, "NO_ROUTE", "e", key), b"", b"")

    def end(self) -> None:
        self.wire.lost.set_result(ChannelLost("gone"))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def outcomes(answers: list[Future[None]]) -> list[str]:
    """`-` while it is open, else the kind of the end."""
    return ["-" if not one.done() else type(one.exception()).__name__ for one in answers]


async def test_acks_of_many_and_of_one_in_any_order(bench: Bench) -> None:
    """A range settles all below it that is open; what was settled stays so."""
    answers = [bench.publish() for _ in range(6)]
    bench.ack(4)
    bench.nack(5)
    bench.ack(2, multiple=True)
    assert outcomes(answers) == ["NoneType", "NoneType", "-", "NoneType", "Undeliverable", "-"]
    bench.nack(0, multiple=True)
    assert outcomes(answers)[2::3] == ["Undeliverable", "Undeliverable"]
    bench.ack(6, multiple=True)


async def test_an_ack_of_many_costs_what_is_open(bench: Bench) -> None:
    """Not all that was acknowledged one by one before it: after days of those the loop would stall."""
    for tag in range(1, 1001):
        bench.publish()
        bench.ack(tag)
    answers = [bench.publish() for _ in range(3)]
    with mock.patch.object(bench.confirms, "_settle", wraps=bench.confirms._settle) as settle:
        bench.ack(1002, multiple=True)
    assert outcomes(answers) == ["NoneType", "NoneType", "-"]
    assert settle.call_count == 2


async def test_a_return_beats_the_ack(bench: Bench) -> None:
    """Of several with one key any may be meant: all fail, since one that was returned and taken for routed is lost."""
    answers = [bench.publish(key) for key in ("a", "b", "a")]
    bench.returned("a")
    bench.returned("unknown")
    bench.ack(3, multiple=True)
    assert outcomes(answers) == ["Unroutable", "NoneType", "Unroutable"]
    assert not bench.confirms._open


async def test_all_outstanding_fail_with_the_channel(bench: Bench) -> None:
    """And so does what is published later."""
    answers = [bench.publish(), bench.publish("k")]
    bench.end()
    for answer in answers:
        with pytest.raises(Undeliverable, match="gone"):
            await answer


async def test_what_cant_be_sent_takes_no_tag(bench: Bench) -> None:
    """A lost channel fails the message and disturbs no other."""
    bench.wire.failure = ChannelLost("closed")
    failed = bench.publish()
    bench.wire.failure = None
    sent = bench.publish()
    bench.ack(1)
    assert outcomes([failed, sent]) == ["Undeliverable", "NoneType"]


async def test_answers_that_nobody_awaits_any_more(bench: Bench) -> None:
    """A cancelled future is left alone."""
    answer = bench.publish("k")
    answer.cancel()
    bench.returned("k")
    bench.ack(1)


async def test_a_broker_that_says_nothing_is_cut_off() -> None:
    """After the deadline, if not even a heartbeat came."""
    bench = Bench(seconds=0.05)
    answer = bench.publish()
    await until(lambda: bench.wire.cut_for is not None)
    assert "0.05 s" in str(bench.wire.cut_for)
    assert not answer.done()  # the loss of the channel will fail it
    bench.end()
    with pytest.raises(Undeliverable):
        await answer


async def test_one_overdue_confirm_fails_its_message_alone() -> None:
    """While anything is heard the connection is well: a queue may have lost its quorum."""
    bench = Bench(seconds=0.05)
    stuck = bench.publish()
    tag = 1
    while not stuck.done():
        bench.publish()
        tag += 1
        bench.ack(tag)
        bench.wire.heard += 20
        await asyncio.sleep(0)
    with pytest.raises(Undeliverable, match=r"within 0\.05 s"):
        await stuck
    assert bench.wire.cut_for is None
    bench.end()


async def test_an_alarm_stops_the_clock() -> None:
    """The broker said that it would not take messages: that is no silence."""
    bench = Bench(seconds=0.02)
    bench.wire.blocked = "low on memory"
    answer = bench.publish()
    confirms = bench.confirms
    ticks = 0
    while ticks < 20:
        before = confirms._timer
        await until(lambda before=before: confirms._timer is not before)  # type: ignore[misc] # mypy #12557
        ticks += 1
    assert not answer.done()
    bench.wire.blocked = None
    await until(lambda: bench.wire.cut_for is not None)
    bench.end()
    with pytest.raises(Undeliverable):
        await answer


def test_unroutable_is_undeliverable() -> None:
    """Who does not care for the difference need not."""
    assert issubclass(Unroutable, Undeliverable)
