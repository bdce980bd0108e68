"""What a collector of traces sees."""

import signal
from collections.abc import Iterator
from uuid import uuid4

import aio_pika
import grpc.aio
import httpx2
import pytest
from opentelemetry.trace import format_span_id

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.collector import Collector, Span, collector
from tests.e2e.process import trivium_process

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "vendor=1", "baggage": "tenant=7"}


@pytest.fixture
def traces() -> Iterator[Collector]:
    with collector() as found:
        yield found


def environment(traces: Collector, service: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
        "OTEL_SERVICE_NAME": service,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


def named(spans: list[Span], service: str, name: str) -> Span:
    (found,) = [span for span in spans if (span.service, span.name) == (service, name)]
    return found


async def test_one_trace_from_rest_through_rabbitmq_to_a_follower_of_another(
    traces: Collector, amqp_url: str, amqp_prefix: str
) -> None:
    """Every step is there, each under the step that caused it; baggage and trace state arrive with the message."""
    topic = f"t-{uuid4().hex[:8]}"

    def steps() -> list[Span]:
        """Without the second relay's, which finds no queue and tells that."""
        return [span for span in traces.spans if (span.service, span.name) != ("two", f"relay {topic}")]

    one, two = (
        ("--data-dir=:memory:", f"--amqp-url={amqp_url}", f"--amqp-prefix={amqp_prefix}.{name}")
        for name in ("one", "two")
    )
    async with (
        trivium_process(*one, environment=environment(traces, "one")) as first,
        trivium_process(*two, environment=environment(traces, "two")) as second,
        await aio_pika.connect(amqp_url) as connection,
    ):
        for process in (first, second):
            await process.logged("broker is connected")
        channel = await connection.channel()
        into = await channel.get_exchange(f"{amqp_prefix}.two.in")
        await into.bind(await channel.get_exchange(f"{amqp_prefix}.one.out"), topic)
        async with grpc.aio.insecure_channel(second.grpc) as target:
            follower = MessagesStub(target).Follow(pb.FollowRequest(topic=topic, after=0))
            assert not (await follower.read()).messages  # it stands at the start
            async with httpx2.AsyncClient(base_url=first.rest, timeout=30) as http:
                answer = await http.post(f"/api/topics/{topic}/messages", content=b"hello", headers=SAMPLED)
                assert answer.status_code == 201
            (message,) = (await follower.read()).messages
            await traces.collected(lambda _: len(steps()) >= 6)
            follower.cancel()  # not before: a delivery that is cancelled by then tells of that
        assert [await process.end(signal.SIGTERM) for process in (first, second)] == [0, 0]

    spans = steps()
    assert {span.trace for span in traces.spans} == {TRACE}
    publish, relay = named(spans, "one", f"publish {topic}"), named(spans, "one", f"relay {topic}")
    process_, deliver = named(spans, "two", f"process {topic}"), named(spans, "two", f"deliver {topic}")
    parents = {
        publish.id: CLIENT,
        named(spans, "one", "commit").id: publish.id,
        relay.id: publish.id,
        process_.id: relay.id,
        named(spans, "two", "commit").id: relay.id,
        deliver.id: relay.id,
    }
    assert {span.id: span.parent for span in spans} == parents
    assert not any(span.is_error for span in spans)
    for span, system, operation in (
        (publish, "trivium", "publish"),
        (relay, "rabbitmq", "relay"),
        (process_, "rabbitmq", "process"),
        (deliver, "trivium", "deliver"),
    ):
        assert span.attributes["messaging.system"] == system
        assert span.attributes["messaging.operation.name"] == operation
        assert span.attributes["messaging.destination.name"] == topic
        assert span.attributes["messaging.message.id"] == message.id
        assert span.attributes["messaging.message.body.size"] == 5
    assert dict(message.attributes) == {
        "traceparent": f"00-{TRACE}-{relay.id}-01",
        "tracestate": "vendor=1",
        "baggage": "tenant=7",
    }


async def test_a_group_is_linked_to_all_that_it_committed(traces: Collector) -> None:
    """Its span stands in one of the traces; what failed says why."""
    variables = environment(traces, "one")
    async with (
        trivium_process("--no-amqp", "--no-rest", "--data-dir=:memory:", environment=variables) as trivium,
        grpc.aio.insecure_channel(trivium.grpc) as target,
    ):
        call = MessagesStub(target).PublishStream()
        for number in range(3):
            own = f"00-{number + 1:032x}-{number + 1:016x}-01"
            message = pb.Message(id=str(number), data=b"x", attributes={"traceparent": own})
            await call.write(pb.PublishStreamRequest(topic="t", messages=[message]))
        conflict = pb.Message(id="0", data=b"y", attributes={"traceparent": f"00-{9:032x}-{9:016x}-01"})
        await call.write(pb.PublishStreamRequest(topic="t", messages=[conflict]))
        assert [len((await call.read()).messages) for _ in range(4)] == [1, 1, 1, 0]
        await call.done_writing()
        spans = await traces.collected(
            lambda spans: (
                sum(span.name == "publish t" for span in spans) == 4
                and sum(len(span.links) + 1 for span in spans if span.name == "commit") == 4
            )
        )
    of = {format_span_id(number): span for number in (1, 2, 3, 9) for span in spans if int(span.trace, 16) == number}
    assert len(of) == 4
    commits = [span for span in spans if span.name == "commit"]
    linked = [link for span in commits for link in (span.parent, *span.links)]
    assert sorted(linked) == sorted(of)
    (failed,) = [span for span in spans if span.is_error]
    assert (failed.name, failed.attributes["error.type"]) == ("publish t", "conflict")


@pytest.mark.parametrize(
    "sampler",
    [
        {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    ],
)
async def test_what_is_not_sampled_is_not_recorded(traces: Collector, sampler: dict[str, str]) -> None:
    """By the caller's decision, and by the sampler where there is no caller's; its context is stored all the same."""
    variables = {**environment(traces, "one"), **sampler}
    async with (
        trivium_process("--no-amqp", "--no-grpc", "--data-dir=:memory:", environment=variables) as trivium,
        httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http,
    ):
        unsampled = f"00-{TRACE}-{CLIENT}-00"
        await http.post("/api/topics/t/messages", content=b"1", headers={"traceparent": unsampled})
        await http.post("/api/topics/t/messages", content=b"2")
        await http.post("/api/topics/t/messages", content=b"3", headers=SAMPLED)
        stored = (await http.get("/api/topics/t/messages")).json()["messages"]
        await traces.collected(lambda spans: len(spans) == 2)
        assert await trivium.end(signal.SIGTERM) == 0
    assert sorted(span.name for span in traces.spans) == ["commit", "publish t"]
    assert stored[0]["traceparent"] == unsampled
    assert "traceparent" not in stored[1]
    assert {span.trace for span in traces.spans} == {TRACE}


async def test_about_the_share_that_was_asked_for_is_recorded(traces: Collector) -> None:
    """Of the traces that begin here; their messages carry them."""
    variables = {
        **environment(traces, "one"),
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
    }
    async with (
        trivium_process("--no-amqp", "--no-grpc", "--data-dir=:memory:", environment=variables) as trivium,
        httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http,
    ):
        for number in range(100):
            await http.post("/api/topics/t/messages", content=b"%d" % number)
        stored = (await http.get("/api/topics/t/messages")).json()["messages"]
        carried = {one["traceparent"].split("-")[1] for one in stored if "traceparent" in one}
        await traces.collected(lambda spans: sum(span.name == "publish t" for span in spans) == len(carried))
    assert 20 < len(carried) < 80
    assert {span.trace for span in traces.spans} == carried


@pytest.mark.parametrize(
    "traceparent", [f"00-{0:032x}-{CLIENT}-01", f"00-{TRACE}-{0:016x}-01", f"ff-{TRACE}-{CLIENT}-01"]
)
async def test_what_names_no_span_is_no_parent(traces: Collector, traceparent: str) -> None:
    """Zeros are no ids, and ff is no version: a trace begins here."""
    async with (
        trivium_process(
            "--no-amqp", "--no-grpc", "--data-dir=:memory:", environment=environment(traces, "one")
        ) as trivium,
        httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http,
    ):
        await http.post("/api/topics/t/messages", content=b"1", headers={"traceparent": traceparent})
        spans = await traces.collected(lambda spans: len(spans) == 2)
    publish, commit = named(spans, "one", "publish t"), named(spans, "one", "commit")
    assert publish.trace == commit.trace
    assert publish.trace not in (TRACE, "0" * 32)
    assert (publish.parent, commit.parent) == ("", publish.id)


async def test_limits_of_spans_are_honoured(traces: Collector) -> None:
    """OpenTelemetry's variables bound the values of attributes and the links."""
    variables = {
        **environment(traces, "one"),
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
    }
    parents = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2, 3)]
    async with (
        trivium_process("--no-amqp", "--no-rest", "--data-dir=:memory:", environment=variables) as trivium,
        grpc.aio.insecure_channel(trivium.grpc) as target,
    ):
        batch = [pb.Message(data=b"x", attributes={"traceparent": parent}) for parent in parents]
        await MessagesStub(target).Publish(pb.PublishRequest(topic="topic", messages=batch))
        spans = await traces.collected(lambda spans: len(spans) == 2)
    assert named(spans, "one", "publish topic").attributes["messaging.destination.name"] == "topi"
    assert len(named(spans, "one", "commit").links) == 1


async def test_a_collector_that_is_away_holds_nothing_up() -> None:
    """Neither publishing nor the end."""
    async with (
        trivium_process(
            *("--no-amqp", "--no-grpc", "--data-dir=:memory:"),
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        ) as trivium,
        httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http,
    ):
        assert (await http.post("/api/topics/t/messages", content=b"1", headers=SAMPLED)).status_code == 201
        assert await trivium.end(signal.SIGTERM) == 0
