"""Many followers of one topic."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import grpc.aio
import pytest

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.clients import rest_publisher
from tests.e2e.process import trivium_process

SSE_FOLLOWERS = 1000
GRPC_FOLLOWERS = 100
MESSAGES = 200


async def sse_offsets(base_url: str, opened: Callable[[], None]) -> AsyncIterator[int]:
    """The offsets that an SSE follower sees, over a bare socket: a thousand HTTP clients would cost more than it."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET /api/topics/t/stream?after=0 HTTP/1.1\r\nhost: {address.netloc}\r\n\r\n".encode())
    try:
        assert b" 200 " in await reader.readline()
        first = True
        while line := await reader.readline():
            if line.startswith(b"id:"):
                if first:
                    opened()
                    first = False
                else:
                    yield int(line[3:])
    finally:
        writer.close()


async def grpc_offsets(stub: MessagesStub, opened: Callable[[], None]) -> AsyncIterator[int]:
    """The offsets that a gRPC follower sees."""
    call = stub.Follow(pb.FollowRequest(topic="t", after=0))
    first = True
    async for answer in call:
        if first:
            opened()
            first = False
        for message in answer.messages:
            yield message.offset


async def seen_by(offsets: AsyncIterator[int]) -> list[int]:
    found = []
    async for offset in offsets:
        found.append(offset)
        if len(found) == MESSAGES:
            break
    return found


@pytest.mark.timeout(240)
async def test_each_follower_sees_each_offset_once() -> None:
    """1,000 SSE and 100 gRPC followers of a topic that is being written see every offset once, in order."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with trivium_process("--no-amqp", "--data-dir=:memory:") as trivium:
        before = trivium.memory_bytes()
        waiting = SSE_FOLLOWERS + GRPC_FOLLOWERS
        all_open = asyncio.Event()

        def opened() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                all_open.set()

        async with grpc.aio.insecure_channel(trivium.grpc) as channel:
            stub = MessagesStub(channel)
            followers = [seen_by(sse_offsets(trivium.rest, opened)) for _ in range(SSE_FOLLOWERS)]
            followers += [seen_by(grpc_offsets(stub, opened)) for _ in range(GRPC_FOLLOWERS)]
            tasks = [asyncio.create_task(follower) for follower in followers]
            await all_open.wait()
            idle = trivium.memory_bytes()
            async with rest_publisher(trivium.rest, "t") as publish:
                for number in range(MESSAGES):
                    await publish(f"m-{number}")
            for task in tasks:
                assert await task == list(range(1, MESSAGES + 1))
        per_follower = (idle - before) // (SSE_FOLLOWERS + GRPC_FOLLOWERS)
        print(f"memory: {per_follower} bytes per idle follower, {trivium.memory_bytes() - before} for all afterwards")
