"""Follow, as clients of different speeds see it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from core.gate import OpenGate
from core.health import Health
from core.messages import Page
from core.service import LocalService
from core.settings import Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.grpc_door.clients import connect, failure, request, until
from transports.grpc.door import GrpcDoor

CHUNK = b"x" * 1024 * 250


async def offsets(call: grpc.aio.UnaryStreamCall[pb.FollowRequest, pb.FollowResponse], last: int) -> list[int]:
    """The offsets that a follower sees up to `last`; every answer's cursor must be that of its last message."""
    seen: list[int] = []
    async for answer in call:
        seen += [one.offset for one in answer.messages]
        assert not answer.messages or answer.next == seen[-1]
        if answer.next >= last:
            break
    call.cancel()
    return seen


async def test_the_first_answer_carries_the_cursor(stub: MessagesStub) -> None:
    """Without a cursor a follower learns at once where it stands, and gets what comes after."""
    await stub.Publish(request("t", b"before"))
    call = stub.Follow(pb.FollowRequest(topic="t"))
    assert await call.read() == pb.FollowResponse(next=1)
    await stub.Publish(request("t", b"after"))
    answer = await call.read()
    assert [(one.offset, one.data) for one in answer.messages] == [(2, b"after")]
    call.cancel()


async def test_a_follower_of_an_empty_topic_waits(stub: MessagesStub) -> None:
    """A topic without messages is empty, not missing."""
    call = stub.Follow(pb.FollowRequest(topic="t", after=0))
    assert await call.read() == pb.FollowResponse()
    await stub.Publish(request("t", b"x"))
    assert (await call.read()).next == 1
    call.cancel()


async def test_a_follower_resumes_at_its_cursor(stub: MessagesStub) -> None:
    """Who comes back with the last cursor misses nothing and gets nothing twice."""
    await stub.Publish(request("t", *[b"x"] * 10))
    call = stub.Follow(pb.FollowRequest(topic="t", after=4))
    assert (await call.read()).next == 4
    cursor = (await call.read()).next
    call.cancel()
    await stub.Publish(request("t", *[b"y"] * 5))
    assert await offsets(stub.Follow(pb.FollowRequest(topic="t", after=cursor)), 15) == list(range(cursor + 1, 16))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (pb.FollowRequest(topic="?"), "topic"),
        (pb.FollowRequest(topic="t", after=-1), "after"),
        (pb.FollowRequest(topic="t", after=1), "after"),
        (pb.FollowRequest(topic="t", after=2**63 - 1), "after"),
    ],
)
async def test_bad_cursors_are_refused(bad: pb.FollowRequest, field: str, stub: MessagesStub) -> None:
    """A bad topic and a cursor that can't be end the call with details."""
    failed = await failure(stub.Follow(bad).read())
    assert (failed.code, failed.reason, failed.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_argument",
        field,
    )


async def test_garbage_is_an_invalid_argument(channel: Any) -> None:
    """A stream whose request is no protobuf ends with details."""
    failed = await failure(channel.unary_stream("/trivium.v1.Messages/Follow")(b"\xff").read())
    assert (failed.code, failed.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")


async def test_a_follower_that_leaves_holds_nothing(stub: MessagesStub, service: LocalService) -> None:
    """Cancelling a stream frees its place."""
    call = stub.Follow(pb.FollowRequest(topic="t"))
    await call.read()
    assert service.streams == 1
    call.cancel()
    await until(lambda: not service.streams)


async def test_two_hundred_followers_see_every_offset_once(door: GrpcDoor, service: LocalService) -> None:
    """Followers on many connections see the same offsets in the same order while the topic is written."""
    async with AsyncExitStack() as stack:
        stubs = [MessagesStub(await stack.enter_async_context(connect(door))) for _ in range(5)]
        followers = [
            asyncio.create_task(offsets(stubs[index % 5].Follow(pb.FollowRequest(topic="t", after=0)), 100))
            for index in range(200)
        ]
        await until(lambda: service.streams == 200)
        for _ in range(20):
            await asyncio.gather(*(stubs[0].Publish(request("t", b"x")) for _ in range(5)))
        for follower in followers:
            assert await follower == list(range(1, 101))


class CountingService(LocalService):
    """Counts the bytes that followers took, each by its name, the topic's cursor that it began with."""

    def __init__(self, service: LocalService) -> None:
        self.__dict__.update(service.__dict__)
        self.taken: dict[int | None, int] = {}

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        async for page in super().follow(topic, after):
            self.taken[after] = self.taken.get(after, 0) + sum(len(one.message.data) for one in page.messages)
            yield page


async def test_a_slow_follower_costs_bounded_memory(service: LocalService, health: Health, settings: Settings) -> None:
    """One that does not read stops taking messages from the log, hinders nobody, and later sees them all."""
    counting = CountingService(service)
    async with (
        GrpcDoor(OpenGate(counting, settings), health, settings) as door,
        connect(door) as slow,
        connect(door) as quick,
    ):
        for _ in range(120):
            await MessagesStub(quick).Publish(request("t", CHUNK))
        stalled = MessagesStub(slow).Follow(pb.FollowRequest(topic="t", after=0))
        await until(lambda: counting.taken.get(0))
        assert await offsets(MessagesStub(quick).Follow(pb.FollowRequest(topic="t", after=1)), 120) == [*range(2, 121)]
        assert counting.taken[1] == 119 * len(CHUNK)
        assert counting.taken[0] < 10 * 1024 * 1024
        assert await offsets(stalled, 120) == list(range(1, 121))
