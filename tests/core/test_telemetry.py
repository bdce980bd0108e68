"""Figures, and how they are collected."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from core.health import Health
from core.limits import Limits
from core.messages import new_message
from core.relay import Relay, RelaySettings
from core.routes import Route
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.telemetry import vocabulary
from core.telemetry.access import AccessLog
from core.telemetry.figures import Figure, Histogram, Kind, Metric
from core.telemetry.loop_lag import LoopLag
from core.telemetry.meter import Meter
from core.telemetry.metrics import Metrics
from core.telemetry.requests import RequestIds, current
from core.telemetry.spans import Span, Tracing
from core.telemetry.traced import TracedService
from testing.broker import FakeBroker
from tests.core.opening import a_log
from transports.admin.exposition import Exposition

#: A scrape must not hold up the loop noticeably; on a quiet machine it takes a fraction of this.
NOTICEABLE_SECONDS = 0.1


class Part:
    """Tells the same two figures each time."""

    def figures(self) -> Iterator[Figure]:
        histogram = Histogram(vocabulary.SECONDS)
        histogram.observe(0.001)
        histogram.observe(100.0, times=2)
        yield vocabulary.MESSAGES_IN.of(2, "amqp")
        yield vocabulary.LOOP_LAG.of(histogram)


def test_equal_labels_are_added_up() -> None:
    """Inbox and RPC are one door, each with figures of its own; a part without figures is none."""
    metrics = Metrics()
    for part in (Part(), Part(), object()):
        metrics.add(part)
    found = {figure.metric: figure for figure in metrics.collect()}
    assert found[vocabulary.MESSAGES_IN].value == 4
    lag = found[vocabulary.LOOP_LAG].value
    assert isinstance(lag, Histogram)
    assert (lag.count, lag.sum, lag.counts[1], lag.counts[-1]) == (6, 400.002, 2, 4)
    assert [figure.metric for figure in metrics.collect()] == sorted(found, key=vocabulary.VOCABULARY.index)


def test_a_histogram_counts_upper_bounds_in() -> None:
    """As Prometheus' `le` has it; a copy is not changed by what comes later."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    before = histogram.copy()
    histogram.observe(1.0)
    assert (before.counts, before.count, before.sum) == ([2, 2, 1], 5, 7.5)


def test_names_are_prometheus_names() -> None:
    """Unique, no `_total` of our own, seconds and bytes as units, each with a sentence."""
    names = [metric.name for metric in vocabulary.VOCABULARY]
    assert len(set(names)) == len(names)
    for metric in vocabulary.VOCABULARY:
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert metric.help.endswith(".")
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith(("_seconds", "_messages"))


async def test_a_hundred_thousand_topics_are_a_bounded_scrape() -> None:
    """The oldest have names, the rest is one series, and collecting takes no longer for them."""
    most, topics = 5, 100_000
    broker = FakeBroker()  # no topic has a queue: all of them wait
    settings = RelaySettings.of(Settings(metrics_topics=most))
    async with a_log(MEMORY, metrics_topics=most) as log, Relay(log, broker, settings, Health()) as relay:
        metrics = Metrics()
        metrics.add(log)
        metrics.add(relay)
        message = new_message(b"x")
        for start in range(0, topics, 1000):
            await asyncio.gather(*(log.append(f"t{start + n}", [message], 1) for n in range(1000)))
        await log.append("t3", [new_message(b"y")], 1)
        begun = asyncio.get_running_loop().time()
        figures = metrics.collect()
        assert asyncio.get_running_loop().time() - begun < NOTICEABLE_SECONDS
        heads = {figure.labels[0]: figure.value for figure in figures if figure.metric is vocabulary.LOG_HEAD}
        assert heads == {"t0": 1, "t1": 1, "t2": 1, "t3": 2, "t4": 1, "_other": topics - most}
        lags = {figure.labels[0]: figure.value for figure in figures if figure.metric is vocabulary.RELAY_LAG}
        assert lags == heads
        assert len(figures) < 100
        text, _, _ = Exposition().write(figures, "", compress=False)
        assert text.count(b"\n") < 600


async def test_topics_keep_their_names_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A series that stops because the service was restarted helps nobody."""
    folder = str(tmp_path_factory.mktemp("log"))
    async with a_log(folder) as log:
        for topic in ("z", "b", "a"):
            await log.append(topic, [new_message(b"x")], 1)
        assert log.first_topics(2) == ["z", "b"]
    async with a_log(folder) as log:
        assert log.first_topics(2) == ["z", "b"]
        assert log.first_topics(9) == ["z", "b", "a"]


async def test_no_topic_can_pass_for_the_rest() -> None:
    """A topic may be called `other`."""
    async with a_log(MEMORY, metrics_topics=1) as log:
        metrics = Metrics()
        metrics.add(log)
        for topic in ("other", "more"):
            await log.append(topic, [new_message(b"x")], 1)
        heads = {figure.labels for figure in metrics.collect() if figure.metric is vocabulary.LOG_HEAD}
        assert heads == {("other",), ("_other",)}


def test_the_oldest_message_that_waits() -> None:
    """Its age is never told too young; what was confirmed no longer counts."""
    route = Route("t", 10)
    assert route.came(12, now=1.0) == 2
    assert route.came(12, now=2.0) == 0
    assert route.came(15, now=3.0) == 3
    assert route.came(16, now=4.0) == 1
    assert route.due_since == 1.0
    route.confirmed(11)
    assert route.due_since == 1.0
    route.confirmed(12)
    assert route.due_since == 3.0
    route.came(17, now=9.0)
    route.confirmed(16)
    assert route.due_since == 9.0
    route.confirmed(17)
    route.came(18, now=20.0)
    assert route.due_since == 20.0


async def test_the_relay_tells_what_waits_and_since_when() -> None:
    """While the broker is away it grows; once it is back there is nothing left."""
    broker = FakeBroker("#")
    broker.down()
    async with a_log(MEMORY) as log, Relay(log, broker, RelaySettings.of(Settings()), Health()) as relay:
        metrics = Metrics()
        metrics.add(relay)

        def value(metric: Metric, *labels: str) -> float:
            (found,) = [one.value for one in metrics.collect() if (one.metric, one.labels) == (metric, labels)]
            assert isinstance(found, int | float)
            return found

        assert value(vocabulary.RELAY_OLDEST_SECONDS) == 0
        for _ in range(3):
            await log.append("t", [new_message(b"data")], 4)
        assert value(vocabulary.RELAY_LAG, "t") == 3
        assert 0 < value(vocabulary.RELAY_OLDEST_SECONDS) < value(vocabulary.RELAY_LAG_SECONDS)
        assert value(vocabulary.RELAY_DUE) == 1
        broker.up()
        await broker.received(3)
        while relay.in_flight:  # noqa: ASYNC110 - the broker confirms in a later turn
            await asyncio.sleep(0)
        assert value(vocabulary.RELAY_LAG, "t") == 0
        assert value(vocabulary.RELAY_LAG_SECONDS) == value(vocabulary.RELAY_DUE) == 0
        assert value(vocabulary.RELAYED) == 3
        assert value(vocabulary.BYTES_OUT, "amqp") == 12


async def test_the_loop_tells_how_late_it_is() -> None:
    """A turn that takes long shows."""
    async with LoopLag() as lag:
        lag._due -= 0.7  # as if it had been due then
        lag._look()
        (figure,) = lag.figures()
    assert isinstance(figure.value, Histogram)
    assert figure.value.sum == pytest.approx(0.45, abs=0.2)


def test_the_access_log_takes_a_sample() -> None:
    """None, about the share that was asked for, or all."""
    assert not AccessLog("off", 0.5).picks()
    assert AccessLog("full", 0.001).picks()
    sampled = AccessLog("sampled", 0.2)
    assert 100 < sum(sampled.picks() for _ in range(1000)) < 300


async def test_what_goes_through_a_door_is_counted(service: LocalService) -> None:
    """Followers too, and a reader that is refused is none."""
    meter = Meter("rest", AccessLog("off", 1))
    counted = meter.counting(service)
    await counted.publish("t", [new_message(b"four"), new_message(b"seven77")])
    await counted.get_message("t", 1)
    pages = counted.follow("t", 0)
    await anext(pages)
    await anext(pages)
    assert {figure.metric.name: figure.value for figure in meter.figures()} == {
        "trivium_messages_in": 2,
        "trivium_bytes_in": 11,
        "trivium_messages_out": 3,
        "trivium_bytes_out": 15,
        "trivium_followers": 1,
    }
    await pages.aclose()
    assert meter.traffic.followers == 0
    assert service.streams == 0


async def test_a_follower_that_leaves_ends_its_spans(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written to it when it left is told as an error; what it took before is not."""
    ended: list[Span] = []
    monkeypatch.setattr(BatchSpanProcessor, "on_end", lambda _, span: ended.append(span))
    attributes = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
    async with Tracing(0.0) as tracing:
        pages = TracedService(service, tracing, Limits()).follow("t", 0)
        await anext(pages)
        for text in (b"taken", b"left"):
            await service.publish("t", [new_message(text, attributes=attributes)])
            await anext(pages)
        await pages.aclose()
    assert [span.error for span in ended] == [None, ("CancelledError", "")]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\nb", "é", b"\xff", 7.5])
def test_odd_request_ids_are_replaced(given: object) -> None:
    """By ones that nobody else gives."""
    ids = RequestIds()
    before = current.get()
    try:
        first, second = ids.begin(given, ()).id, ids.begin(given, ()).id
        assert first != second
        assert first != given
        assert ids.begin("A-b.9:/+=@~_", ()).id == "A-b.9:/+=@~_"
    finally:
        current.set(before)
