"""The relay, over a fake broker and over one whose answers the test gives."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import Unavailable
from core.health import Health
from core.messages import StoredMessage, weight
from core.ports import BrokerPublisher, MessageLog, Undeliverable, Unroutable
from core.relay import READER, Relay, RelaySettings
from core.settings import MEMORY, Settings
from core.stores.sqlite import SqliteLog
from testing.broker import FakeBroker
from tests.core.opening import a_log, append, offsets, some, until


class HeldBroker:
    """Confirms nothing by itself."""

    def __init__(self) -> None:
        self.sent: list[tuple[StoredMessage, Future[None]]] = []
        self._more = asyncio.Event()

    async def ready(self) -> None:
        """Always."""

    def publish(self, stored: StoredMessage) -> Future[None]:
        answer: Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((stored, answer))
        self._more.set()
        return answer

    async def offsets(self, count: int, topic: str = "a") -> list[int]:
        """The offsets sent of a topic, once there are `count`."""
        while len(found := [stored.offset for stored, _ in self.sent if stored.topic == topic]) < count:
            self._more.clear()
            await self._more.wait()
        return found

    def confirm(self, *places: int) -> None:
        """Those that were sent at these places, from 0; all that are open if none is given."""
        for place in places or range(len(self.sent)):
            if not self.sent[place][1].done():
                self.sent[place][1].set_result(None)

    def fail(self, place: int, error: Exception) -> None:
        self.sent[place][1].set_exception(error)


@asynccontextmanager
async def relaying(
    log: MessageLog, broker: BrokerPublisher, health: Health | None = None, **settings: Any
) -> AsyncIterator[Relay]:
    """A relay with settings as given."""
    async with Relay(log, broker, RelaySettings.of(Settings(**settings)), health or Health()) as relay:
        yield relay


@pytest.fixture
async def held_broker() -> HeldBroker:
    return HeldBroker()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a millisecond."""
    monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("core.relay._PROBES_PER_SECOND", 1000.0)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that no test lives to see the end of."""
    monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 3600.0)


async def test_all_messages_of_all_topics_arrive_in_the_order_of_their_topic(log: SqliteLog) -> None:
    """Those from before the start and those that come while it runs."""
    broker = FakeBroker("#")
    topics = [f"t{number}" for number in range(20)]
    for topic in topics:
        await append(log, topic, *some(7))
    async with relaying(log, broker):
        await asyncio.gather(*(append(log, topic, *some(5)) for topic in topics for _ in range(3)))
        await broker.received(20 * 22)
    for topic in topics:
        assert [one.offset for one in broker.messages if one.topic == topic] == list(range(1, 23))


async def test_the_cursor_is_kept_and_a_restart_resumes(tmp_path: Path) -> None:
    """Nothing is sent twice after a clean stop, and nothing is left out."""
    broker = FakeBroker("#")
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(5))
        async with relaying(log, broker) as relay:
            await broker.received(5)
            await until(lambda: not relay.in_flight)
    async with a_log(str(tmp_path)) as log:
        assert await log.cursors(READER) == {"a": 5}
        await append(log, "a", *some(3))
        await append(log, "b", *some(2))
        async with relaying(log, broker):
            await broker.received(10)
    assert [(one.topic, one.offset) for one in broker.messages[5:] if one.topic == "a"] == [
        ("a", 6),
        ("a", 7),
        ("a", 8),
    ]


async def test_a_topic_is_probed_first_and_then_its_window_opens(log: SqliteLog, held_broker: HeldBroker) -> None:
    """One message until the first confirm, then as many as the window has room for."""
    await append(log, "a", *some(20))
    async with relaying(log, held_broker, relay_window_messages=8) as relay:
        assert await held_broker.offsets(1) == [1]
        await append(log, "b", *some(1))
        await held_broker.offsets(1, "b")  # the relay had its turn, and did not go on with a
        assert await held_broker.offsets(1) == [1]
        held_broker.confirm()
        assert await held_broker.offsets(9) == list(range(1, 10))
        assert relay.in_flight == 8
        held_broker.confirm()
        assert await held_broker.offsets(17) == list(range(1, 18))
        assert relay.in_flight == 8
        held_broker.confirm()
        await held_broker.offsets(20)
        held_broker.confirm()


async def test_a_full_window_is_filled_up_a_quarter_at_a_time(
    log: SqliteLog, held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirms that come one by one do not cost a read each, and the last of them leave nothing unsent."""
    limits: list[int] = []
    read = log.read

    async def noted(topic: str, after: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        limits.append(limit)
        return await read(topic, after, limit, max_bytes)

    monkeypatch.setattr(log, "read", noted)
    await append(log, "a", *some(30))
    async with relaying(log, held_broker, relay_window_messages=8) as relay:
        await held_broker.offsets(1)
        held_broker.confirm()
        await held_broker.offsets(9)
        for place in range(1, 30):
            await held_broker.offsets(place + 1)
            held_broker.confirm(place)
            assert relay.in_flight <= 8
            for _ in range(3):  # turns of the loop in which the relay may read
                await asyncio.sleep(0)
        assert await held_broker.offsets(30) == list(range(1, 31))
    assert limits[:2] == [1, 8]
    assert set(limits[2:]) == {2}


async def test_the_window_is_bounded_in_bytes(log: SqliteLog, held_broker: HeldBroker) -> None:
    """Exactly, but for the message that makes it full."""
    await append(log, "a", *some(30, b"x" * 1000))
    size = weight((await log.read("a", 0, 1, 0))[0].message)
    async with relaying(log, held_broker, relay_window_bytes=size * 4) as relay:
        await held_broker.offsets(1)
        held_broker.confirm()
        await held_broker.offsets(5)
        await append(log, "b", *some(1))
        held_broker.confirm(1)
        await held_broker.offsets(6)
        assert relay.in_flight == 4
        while relay.in_flight:
            held_broker.confirm()
            await asyncio.sleep(0)


async def test_confirms_out_of_order_move_the_cursor_only_below_the_first_gap(tmp_path: Path) -> None:
    """Nothing counts as relayed before everything below it is."""
    broker = HeldBroker()
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(5))
        relay = Relay(log, broker, RelaySettings.of(Settings()), Health())
        async with relay:
            await broker.offsets(1)
            broker.confirm()
            await broker.offsets(5)
            broker.confirm(2, 4)
            await asyncio.sleep(0)
            await append(log, "z", *some(1))  # takes the cursors along
            assert await log.cursors(READER) == {"a": 1}
            broker.confirm(1)
            await asyncio.sleep(0)
            await append(log, "z", *some(1))
            assert await log.cursors(READER) == {"a": 3}
            broker.confirm()
            while relay.in_flight:
                broker.confirm()
                await asyncio.sleep(0)


async def test_a_nack_in_the_middle_sends_again_from_the_first_failed_offset(
    log: SqliteLog, held_broker: HeldBroker, quick: None
) -> None:
    """With a probe; answers to the earlier sends no longer count."""
    await append(log, "a", *some(6))
    async with relaying(log, held_broker) as relay:
        await held_broker.offsets(1)
        held_broker.confirm()
        assert await held_broker.offsets(6) == [1, 2, 3, 4, 5, 6]
        held_broker.confirm(1)
        held_broker.fail(2, Undeliverable("nack"))
        held_broker.confirm(3, 4)
        held_broker.fail(5, Undeliverable("nack"))
        assert await held_broker.offsets(7) == [1, 2, 3, 4, 5, 6, 3]
        assert relay._routes["a"].failures == 1
        assert relay.in_flight == 1
        held_broker.confirm()
        assert await held_broker.offsets(10) == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_what_was_read_while_the_topic_failed_is_not_sent(
    log: SqliteLog, held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch, slow: None
) -> None:
    """It would come before what has to be sent again."""
    read, gate, reading = log.read, asyncio.Event(), asyncio.Event()
    gate.set()

    async def gated(topic: str, after: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        reading.set()
        await gate.wait()
        return await read(topic, after, limit, max_bytes)

    monkeypatch.setattr(log, "read", gated)
    await append(log, "a", *some(2))
    async with relaying(log, held_broker) as relay:
        await held_broker.offsets(1)
        held_broker.confirm()
        await held_broker.offsets(2)
        gate.clear()
        reading.clear()
        await append(log, "a", *some(1))
        await reading.wait()
        held_broker.fail(1, Undeliverable("nack"))
        await until(lambda: relay._routes["a"].held)
        await append(log, "b", *some(1))
        gate.set()
        await held_broker.offsets(1, "b")
        assert await held_broker.offsets(2) == [1, 2]
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_an_answer_that_was_cancelled_counts_as_failed(
    log: SqliteLog, held_broker: HeldBroker, quick: None
) -> None:
    """A publisher that closes must not leave a topic stuck."""
    await append(log, "a", *some(1))
    async with relaying(log, held_broker) as relay:
        await held_broker.offsets(1)
        held_broker.sent[0][1].cancel()
        assert await held_broker.offsets(2) == [1, 1]
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_a_topic_that_fails_while_it_waits_for_its_turn_is_not_sent_in_its_pause(
    log: SqliteLog, held_broker: HeldBroker, slow: None
) -> None:
    """The turn that it had been given is void."""
    await append(log, "a", *some(9))
    async with relaying(log, held_broker, relay_window_messages=2) as relay:
        await held_broker.offsets(1)
        held_broker.confirm()
        await held_broker.offsets(3)  # the window is full, and the topic waits for its next turn
        await asyncio.sleep(0)
        held_broker.fail(1, Undeliverable("nack"))
        held_broker.confirm(2)
        await append(log, "b", *some(1))
        await held_broker.offsets(1, "b")
        assert await held_broker.offsets(3) == [1, 2, 3]
        assert relay._routes["a"].held
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_a_topic_without_a_queue_is_held_and_the_others_go_on(
    log: SqliteLog, health: Health, quick: None
) -> None:
    """Once a queue is bound everything arrives, in order."""
    broker = FakeBroker("good")
    await append(log, "bad", *some(5))
    await append(log, "good", *some(5))
    async with relaying(log, broker, health, relay_probe_seconds=0.005):
        assert {one.topic for one in await broker.received(5)} == {"good"}
        await until(lambda: bool(health.checks["relay"].detail))
        assert health.checks["relay"].detail.startswith("1 topics are held")
        await append(log, "good", *some(5))
        await broker.received(10)
        broker.bind("bad")
        await broker.received(15)
    assert [one.offset for one in broker.messages if one.topic == "bad"] == [1, 2, 3, 4, 5]
    assert health.checks["relay"].detail == ""
    assert health.ready


async def test_messages_without_a_queue_can_be_skipped(log: SqliteLog) -> None:
    """The cursor passes them; a queue gets what comes after it was bound."""
    broker = FakeBroker()
    await append(log, "a", *some(3))
    async with relaying(log, broker, relay_unroutable="skip") as relay:
        await until(lambda: relay._cursors.get("a") == 3)
        broker.bind("a")
        await append(log, "a", *some(2))
        assert offsets(await broker.received(2)) == [4, 5]


async def test_a_topic_with_a_long_pause_does_not_delay_one_with_a_short_one(
    log: SqliteLog, held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broker's return all topics go on at once, though others have been unroutable for long."""
    monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 3600.0)
    await append(log, "a", *some(1))
    async with relaying(log, held_broker, relay_probe_seconds=3600.0) as relay:
        await held_broker.offsets(1)
        held_broker.fail(0, Unroutable("no queue"))
        await until(lambda: bool(relay._held))
        monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 0.001)
        await append(log, "b", *some(1))
        await held_broker.offsets(1, "b")
        held_broker.fail(1, Undeliverable("nack"))
        assert await held_broker.offsets(2, "b") == [1, 1]
        assert await held_broker.offsets(1) == [1]
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_a_topic_that_was_nacked_does_not_wait_behind_those_without_a_queue(
    log: SqliteLog, held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probes of held topics are few and far between; others need not keep to that."""
    monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("core.relay._PROBES_PER_SECOND", 0.001)
    for number in range(9):
        await append(log, f"t{number}", *some(1))
    async with relaying(log, held_broker) as relay:
        relay._last_probe = asyncio.get_running_loop().time()  # the next probe is a quarter of an hour away
        for number in range(9):
            await held_broker.offsets(1, f"t{number}")
            held_broker.fail(number, Unroutable("no queue"))
        await until(lambda: not relay.in_flight)
        await append(log, "a", *some(1))
        await held_broker.offsets(1)
        held_broker.fail(9, Undeliverable("nack"))
        assert await held_broker.offsets(2) == [1, 1]
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_a_thousand_messages_while_the_broker_is_away_arrive_in_order(log: SqliteLog, quick: None) -> None:
    """What was in flight when it went is sent again; the rest is sent once."""
    broker = FakeBroker("#")
    async with relaying(log, broker):
        await append(log, "a", *some(10))
        await broker.received(5)
        broker.down()
        await asyncio.gather(*(append(log, "a", *some(10)) for _ in range(100)))
        broker.up()
        while not broker.messages or broker.messages[-1].offset < 1010:
            await broker.received(len(broker.messages) + 1)
    seen = offsets(broker.messages)
    assert list(dict.fromkeys(seen)) == list(range(1, 1011))
    assert len(seen) <= 1020


async def test_many_held_topics_cost_a_bounded_number_of_probes(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short their pauses are, probes keep their distance."""
    monkeypatch.setattr("core.relay._FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("core.relay._PROBES_PER_SECOND", 100.0)

    class Counting(FakeBroker):
        probes = 0
        enough = asyncio.Event()

        def publish(self, stored: StoredMessage) -> Future[None]:
            self.probes += 1
            if self.probes == 200 + 20:
                self.enough.set()
            return super().publish(stored)

    for number in range(200):
        await append(log, f"t{number}", *some(1))
    broker = Counting()
    async with relaying(log, broker, relay_probe_seconds=0.002):
        loop = asyncio.get_running_loop()
        await until(lambda: broker.probes >= 200)
        begun, before = loop.time(), broker.probes
        await broker.enough.wait()
        # the first of the counted ones may have been due already
        assert loop.time() - begun >= (220 - before - 2) / 100.0


async def test_a_topic_that_has_nothing_in_flight_takes_little_memory(log: SqliteLog, slow: None) -> None:
    """Held or idle: there may be hundreds of thousands of them."""
    for topic in ("bound", "unbound"):
        await append(log, topic, *some(3))
    async with relaying(log, FakeBroker("bound")) as relay:
        await until(lambda: "bound" in relay._idle and relay._routes["unbound"].held)
        assert relay._idle["bound"].in_flight is relay._routes["unbound"].in_flight is None


async def test_the_pause_of_a_topic_grows_to_its_bound(log: SqliteLog, held_broker: HeldBroker, quick: None) -> None:
    """And begins anew after a success."""
    await append(log, "a", *some(3))
    async with relaying(log, held_broker, relay_probe_seconds=0.004) as relay:
        for place in range(5):
            await held_broker.offsets(place + 1)
            held_broker.fail(place, Unroutable("no queue"))
        await held_broker.offsets(6)
        assert relay._routes["a"].failures == 5
        held_broker.confirm()
        await held_broker.offsets(8)
        assert relay._routes["a"].failures == 0
        held_broker.confirm()
        await until(lambda: not relay.in_flight)


async def test_from_now_leaves_the_past_alone(log: SqliteLog) -> None:
    """What comes later is relayed, also of topics that come later."""
    broker = FakeBroker("#")
    await append(log, "a", *some(3))
    async with relaying(log, broker, relay_from="now"):
        await append(log, "a", *some(2))
        await append(log, "b", *some(2))
        await broker.received(4)
    assert sorted((one.topic, one.offset) for one in broker.messages) == [("a", 4), ("a", 5), ("b", 1), ("b", 2)]


async def test_from_now_is_decided_once(tmp_path: Path) -> None:
    """A restart goes on where the first start began, also if nothing was relayed in between."""
    broker = FakeBroker("#")
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(3))
        async with relaying(log, broker, relay_from="now"):
            pass
        await append(log, "a", *some(2))
        await append(log, "b", *some(1))
    async with a_log(str(tmp_path)) as log, relaying(log, broker, relay_from="now"):
        await broker.received(3)
    assert sorted((one.topic, one.offset) for one in broker.messages) == [("a", 4), ("a", 5), ("b", 1)]


async def test_a_read_that_fails_holds_the_topic(log: SqliteLog, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The disk may be well again in a moment; the relay does not die of it."""
    broker = FakeBroker("#")
    await append(log, "a", *some(3))
    read, failures = log.read, [Unavailable("the store can't be read")] * 2

    async def failing(topic: str, after: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        if failures:
            raise failures.pop()
        return await read(topic, after, limit, max_bytes)

    monkeypatch.setattr(log, "read", failing)
    async with relaying(log, broker):
        assert offsets(await broker.received(3)) == [1, 2, 3]


async def test_stopping_waits_for_outstanding_confirms_but_not_for_ever(
    log: SqliteLog, held_broker: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not confirmed stays due."""
    monkeypatch.setattr("core.relay._FLUSH_SECONDS", 0.01)
    await append(log, "a", *some(2))
    async with relaying(log, held_broker) as relay:
        await held_broker.offsets(1)
    assert relay.in_flight == 1
    async with relaying(log, held_broker) as relay:
        await held_broker.offsets(2)
        asyncio.get_running_loop().call_soon(held_broker.confirm)
    assert relay.in_flight == 0
    await append(log, "b", *some(1))  # takes the cursors along
    async with relaying(log, held_broker):
        assert await held_broker.offsets(3) == [1, 1, 2]


async def test_the_relay_says_what_it_died_of(log: SqliteLog) -> None:
    """`wait` raises it, so that the service can end."""

    class Broken(FakeBroker):
        async def ready(self) -> None:
            raise ValueError("a defect")

    async with relaying(log, Broken()) as relay:
        with pytest.raises(ValueError, match="a defect"):
            await relay.wait()


async def test_topics_with_nothing_due_are_forgotten_in_the_end(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor stays of them; they are probed anew."""
    monkeypatch.setattr("core.relay._IDLE_ROUTES", 3)
    broker = FakeBroker("#")
    async with relaying(log, broker) as relay:
        for number in range(10):
            await append(log, f"t{number}", *some(1))
            await broker.received(number + 1)
        await until(lambda: not relay.in_flight)
        assert not relay._routes
        assert list(relay._idle) == ["t7", "t8", "t9"]
        await append(log, "t0", *some(2))
        await broker.received(12)
    assert [one.offset for one in broker.messages if one.topic == "t0"] == [1, 2, 3]


def test_the_settings_of_the_relay_are_those_of_these_names() -> None:
    """One place for each number."""
    settings = Settings(data_dir=MEMORY, relay_window_messages=3, relay_from="now", relay_unroutable="skip")
    assert RelaySettings.of(settings) == RelaySettings(
        start="now",
        unroutable="skip",
        window_messages=3,
        window_bytes=settings.relay_window_bytes,
        probe_seconds=settings.relay_probe_seconds,
        metrics_topics=settings.metrics_topics,
    )
