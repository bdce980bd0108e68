"""PublishStream: order, refusals, and what happens when one side stops."""

import asyncio
import gc
import threading
from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import msgspec
import pytest

from core.errors import TriviumError, Unavailable
from core.gate import OpenGate, PolicyGate
from core.health import Health
from core.keys import KeyRing
from core.messages import Message, Published
from core.policy import Entry, Policy
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.groups import Cursors, Unit
from core.stores.keys import SqliteKeys
from core.stores.sqlite import SqliteLog
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.core.opening import alive
from tests.grpc_door.clients import calls, connect, failure, until
from transports.grpc.door import GrpcDoor


def stream_request(topic: str, *data: bytes) -> pb.PublishStreamRequest:
    return pb.PublishStreamRequest(topic=topic, messages=[pb.Message(data=one) for one in data])


async def test_many_requests_are_answered_in_order(
    stub: MessagesStub, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand requests that never wait for an answer get theirs in order, and share commits."""
    disk = threading.Event()
    commit = log._writer.commit

    def slow(units: Sequence[Unit], cursors: Cursors) -> None:
        disk.wait(20)
        commit(units, cursors)

    async def requests() -> AsyncIterator[pb.PublishStreamRequest]:
        for index in range(1000):
            yield stream_request("t", str(index).encode())

    monkeypatch.setattr(log._writer, "commit", slow)
    stream = stub.PublishStream(requests())
    await until(lambda: len(log.groups._pending) >= 100)
    disk.set()
    answers = [answer async for answer in stream]
    assert [one.offset for answer in answers for one in answer.messages] == list(range(1, 1001))
    assert [one.message.data for one in await log.read("t", 0, 1000, 10**9)] == [b"%d" % index for index in range(1000)]
    assert log.groups.groups <= 1000 - 99


async def test_a_refused_request_does_not_end_the_stream(stub: MessagesStub, log: SqliteLog) -> None:
    """Each refusal stands at its place among the answers, with the values of a status."""
    stream = stub.PublishStream()
    twice = pb.Message(id="1", data=b"a")
    for one in (
        pb.PublishStreamRequest(topic="t", messages=[twice]),
        stream_request("?", b"x"),
        pb.PublishStreamRequest(topic="t", messages=[twice]),
        pb.PublishStreamRequest(topic="t", messages=[pb.Message(id="2"), pb.Message(id="1", data=b"b")]),
        stream_request("t"),
        stream_request("t", b"last"),
    ):
        await stream.write(one)
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.status.reason for answer in answers] == [
        "",
        "invalid_argument",
        "",
        "conflict",
        "invalid_argument",
        "",
    ]
    assert [answer.status.field for answer in answers] == ["", "topic", "", "messages[1].id", "messages", ""]
    assert answers[1].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert not answers[1].messages
    assert [one.offset for answer in answers for one in answer.messages] == [1, 1, 2]
    assert answers[2].messages[0].duplicate
    assert await log.head("t") == 2


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_refused_request_waits_for_a_collection(stub: MessagesStub) -> None:
    """Not even while the stream is idle."""
    before = alive(TriviumError)
    stream = stub.PublishStream()
    for refused in (stream_request("?", b"x"), stream_request("t")):
        await stream.write(refused)
        assert (await stream.read()).status.reason
        await until(lambda: alive(TriviumError) <= before)
    stream.cancel()


async def test_garbage_is_one_refused_request(channel: Any) -> None:
    """Bytes that are no request are refused at their place, and the stream goes on."""
    stream = channel.stream_stream("/trivium.v1.Messages/PublishStream")()
    await stream.write(b"\xff")
    refused = pb.PublishStreamResponse.FromString(await stream.read())
    assert (refused.status.reason, refused.status.field) == ("invalid_argument", "request")
    await stream.write(stream_request("t", b"x").SerializeToString())
    assert pb.PublishStreamResponse.FromString(await stream.read()).messages[0].offset == 1
    stream.cancel()


async def test_an_empty_stream_ends_at_once(stub: MessagesStub) -> None:
    """A peer that sends nothing and half-closes gets OK."""
    stream = stub.PublishStream()
    await stream.done_writing()
    assert [answer async for answer in stream] == []
    assert await stream.code() is grpc.StatusCode.OK


class HeldService(LocalService):
    """Begins every publish and leaves the end to the test."""

    def __init__(self, service: LocalService) -> None:
        self.__dict__.update(service.__dict__)
        self.begun: list[Future[tuple[Published, ...]]] = []

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]

    def finish(self, index: int) -> None:
        self.begun[index].set_result((Published("t", index + 1, str(index), False),))


@pytest.fixture
def held(service: LocalService) -> HeldService:
    return HeldService(service)


@pytest.fixture
async def held_door(held: HeldService, health: Health, settings: Settings) -> AsyncIterator[GrpcDoor]:
    """A door on `held`."""
    async with GrpcDoor(OpenGate(held, settings), health, settings) as door:
        yield door


@pytest.fixture
async def held_stub(held_door: GrpcDoor) -> AsyncIterator[MessagesStub]:
    """A client of that door."""
    async with connect(held_door) as channel:
        yield MessagesStub(channel)


@pytest.mark.parametrize(("count", "size", "window"), [(1, 1, 128), (1, 1024 * 1023, 8), (500, 1, 17)])
async def test_what_is_in_flight_is_bounded(
    count: int, size: int, window: int, held: HeldService, held_stub: MessagesStub
) -> None:
    """A stream begins no more than its window of requests, bytes or messages; each answer lets the next one in."""

    async def requests() -> AsyncIterator[pb.PublishStreamRequest]:
        for _ in range(window + 10):
            yield stream_request("t", *[b"x" * size] * count)

    stream = held_stub.PublishStream(requests())
    await until(lambda: len(held.begun) >= window)
    await held_stub.ListTopics(pb.ListTopicsRequest())
    assert len(held.begun) <= window + 1  # the writer has taken the first one out of the window
    for index in range(window + 10):
        await until(lambda index=index: len(held.begun) > index)  # type: ignore[misc]  # mypy can't infer a default
        held.finish(index)
    assert [answer.messages[0].offset async for answer in stream] == list(range(1, window + 11))


async def test_answers_keep_the_order_of_the_requests(held: HeldService, held_stub: MessagesStub) -> None:
    """A request that is done before an earlier one waits for it, a failed one too."""
    stream = held_stub.PublishStream()
    for _ in range(3):
        await stream.write(stream_request("t", b"x"))
    await until(lambda: len(held.begun) == 3)
    held.begun[1].set_exception(Unavailable("the disk is full", retry_after=5.0))
    held.finish(2)
    held.finish(0)
    first, second, third = [await stream.read() for _ in range(3)]
    assert (first.messages[0].offset, third.messages[0].offset) == (1, 3)
    assert (second.status.code, second.status.retry_after_seconds) == (grpc.StatusCode.UNAVAILABLE.value[0], 5.0)
    stream.cancel()


async def test_abandoned_requests_are_counted_and_leave_no_other_trace(
    held: HeldService, held_door: GrpcDoor, held_stub: MessagesStub
) -> None:
    """When the peer goes, failures that nobody waits for any more are not reported as overlooked."""
    overlooked: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: overlooked.append(context))
    stream = held_stub.PublishStream()
    for _ in range(5):
        await stream.write(stream_request("t", b"x"))
    await until(lambda: len(held.begun) == 5)
    held.begun[3].set_exception(Unavailable("away"))
    stream.cancel()
    await until(lambda: all(future.done() for future in held.begun))
    await until(lambda: calls(held_door, "StreamedPublish") == {"cancelled": 5})
    held.begun.clear()
    gc.collect()
    assert overlooked == []


async def test_open_streams_of_a_caller_are_bounded(service: LocalService, health: Health, settings: Settings) -> None:
    """Those that publish count beside those that follow, until they end."""
    bounded = msgspec.structs.replace(settings, principal_streams=1)
    async with GrpcDoor(OpenGate(service, bounded), health, bounded) as door, connect(door) as channel:
        stub = MessagesStub(channel)
        stream = stub.PublishStream()
        await stream.write(stream_request("t", b"x"))
        await stream.read()
        for other in (stub.PublishStream(), stub.Follow(pb.FollowRequest(topic="t"))):
            assert (await failure(_all_of(other))).reason == "overloaded"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack EOF
        follower = stub.Follow(pb.FollowRequest(topic="t"))
        assert (await follower.read()).next == 1
        follower.cancel()


async def test_a_stream_that_ends_while_it_answers_is_told_so(
    held: HeldService, health: Health, settings: Settings
) -> None:
    """A credential that ends in the middle of the first write leaves no peer waiting."""
    keys = KeyRing(SqliteKeys(MEMORY))
    gate = PolicyGate(held, Policy({"shop": Entry(publish=("#",))}), keys, None, settings)
    async with GrpcDoor(gate, health, settings) as door, connect(door) as channel:
        stub: Any = MessagesStub(channel)
        for number in range(20):
            key, text = await keys.create("shop")
            stream = stub.PublishStream(metadata=(("x-api-key", text),))
            await stream.write(stream_request("t", b"x"))
            await until(lambda number=number: len(held.begun) > number)  # type: ignore[misc]  # mypy can't infer it
            held.finish(number)
            await asyncio.sleep(0)  # the write begins
            await keys.revoke(key.id)
            async with asyncio.timeout(30):
                failed = await failure(_all_of(stream))
            assert failed.code is grpc.StatusCode.UNAUTHENTICATED


async def _all_of(stream: Any) -> list[pb.PublishStreamResponse]:
    return [answer async for answer in stream]
