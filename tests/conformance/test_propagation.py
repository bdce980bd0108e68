"""W3C trace context and baggage go in at every door and stay with the message."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import aio_pika
import grpc.aio
import httpx2
import pytest

from core.settings import Settings
from main import Running
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub

TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=value",
    "baggage": "tenant=7",
}
OWN = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}
Publish = Callable[[str, dict[str, str]], Awaitable[None]]


@pytest.fixture(params=["rest", "grpc", "grpc stream", "amqp", "amqp rpc"])
async def publish(request: pytest.FixtureRequest, trivium: Running, settings: Settings) -> AsyncIterator[Publish]:
    """Publishes one message with the context of the request, and these attributes of its own."""
    async with (
        httpx2.AsyncClient(base_url=trivium.doors["rest"].address, timeout=30) as http,
        grpc.aio.insecure_channel(trivium.doors["grpc"].address) as channel,
        await aio_pika.connect(settings.amqp_url) as connection,
    ):
        amqp = await connection.channel()
        stub: Any = MessagesStub(channel)

        async def rest(topic: str, own: dict[str, str]) -> None:
            event = {f"ce-{name}": value for name, value in own.items()}
            answer = await http.post(f"/api/topics/{topic}/messages", content=b"x", headers={**TRACE, **event})
            assert answer.status_code == 201

        async def unary(topic: str, own: dict[str, str]) -> None:
            message = pb.Message(data=b"x", attributes=own)
            await stub.Publish(pb.PublishRequest(topic=topic, messages=[message]), metadata=tuple(TRACE.items()))

        async def stream(topic: str, own: dict[str, str]) -> None:
            call = stub.PublishStream(metadata=tuple(TRACE.items()))
            await call.write(pb.PublishStreamRequest(topic=topic, messages=[pb.Message(data=b"x", attributes=own)]))
            assert (await call.read()).messages[0].offset
            await call.done_writing()

        async def inbox(topic: str, own: dict[str, str]) -> None:
            exchange = await amqp.get_exchange(f"{settings.amqp_prefix}.in")
            event = {f"ce-{name}": value for name, value in own.items()}
            headers: dict[str, Any] = {**({} if own else TRACE), **event}
            await exchange.publish(aio_pika.Message(b"x", headers=headers), topic)

        async def rpc(topic: str, own: dict[str, str]) -> None:
            replies = await amqp.declare_queue(exclusive=True)
            body = json.dumps({"topic": topic, "messages": [{"data": "x", **own}]}).encode()
            headers: dict[str, Any] = dict(TRACE)
            message = aio_pika.Message(body, type="Publish", reply_to=replies.name, headers=headers)
            await amqp.default_exchange.publish(message, f"{settings.amqp_prefix}.rpc")
            async with replies.iterator(no_ack=True, timeout=60) as answers:
                assert (await anext(aiter(answers))).type == "Publish"

        ways = {"rest": rest, "grpc": unary, "grpc stream": stream, "amqp": inbox, "amqp rpc": rpc}
        yield ways[request.param]


async def test_a_request_lends_its_context(publish: Publish, trivium: Running) -> None:
    """To the messages that it publishes."""
    topic = f"t-{uuid4().hex[:8]}"
    await publish(topic, {})
    assert await attributes(trivium, topic) == TRACE


async def test_a_message_keeps_its_own(publish: Publish, trivium: Running) -> None:
    """Whole: nothing of another trace is mixed in."""
    topic = f"t-{uuid4().hex[:8]}"
    await publish(topic, OWN)
    assert await attributes(trivium, topic) == OWN


async def attributes(trivium: Running, topic: str) -> dict[str, str]:
    """Of the first message of a topic, once there is one."""
    async with asyncio.timeout(30):
        page = await trivium.service.read_messages(topic, wait=30)
    return dict(page.messages[0].message.attributes)
