"""Publishers and readers that remember what they were promised."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
import grpc.aio
import httpx2

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub

#: Publishes one message of this id, and returns once it is acknowledged.
Publish = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def rest_publisher(base_url: str, topic: str) -> AsyncIterator[Publish]:
    async with httpx2.AsyncClient(base_url=base_url, timeout=60) as http:

        async def publish(id_: str) -> None:
            answer = await http.post(
                f"/api/topics/{topic}/messages", content=id_.encode(), headers={"idempotency-key": id_}
            )
            answer.raise_for_status()

        yield publish


@asynccontextmanager
async def grpc_publisher(target: str, topic: str) -> AsyncIterator[Publish]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub = MessagesStub(channel)

        async def publish(id_: str) -> None:
            message = pb.Message(id=id_, source="urn:trivium", data=id_.encode())
            await stub.Publish(pb.PublishRequest(topic=topic, messages=[message]))

        yield publish


@asynccontextmanager
async def amqp_publisher(url: str, exchange: str, topic: str) -> AsyncIterator[Publish]:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        into = await channel.get_exchange(exchange)

        async def publish(id_: str) -> None:
            message = aio_pika.Message(id_.encode(), message_id=id_, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await into.publish(message, topic, mandatory=True)

        yield publish


class Published:
    """The ids that were acknowledged, in their order."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._grown = asyncio.Event()

    async def reach(self, count: int) -> None:
        """Return once `count` are acknowledged."""
        while len(self.ids) < count:
            self._grown.clear()
            await self._grown.wait()

    async def keep_publishing(self, publish: Publish, prefix: str) -> None:
        """Publish one after another until it fails, which is when the process is killed."""
        for number in itertools.count():
            id_ = f"{prefix}-{number:06d}"
            try:
                await publish(id_)
            except (httpx2.HTTPError, grpc.aio.AioRpcError):
                return
            self.ids.append(id_)
            self._grown.set()


async def whole_topic(base_url: str, topic: str) -> list[dict[str, str]]:
    """Every message of a topic, page by page through REST."""
    found: list[dict[str, str]] = []
    cursor = 0
    async with httpx2.AsyncClient(base_url=base_url, timeout=60) as http:
        while True:
            answer = await http.get(f"/api/topics/{topic}/messages", params={"after": cursor, "limit": 1000})
            answer.raise_for_status()
            page = answer.json()
            if not page["messages"]:
                return found
            found += page["messages"]
            cursor = page["next"]


@asynccontextmanager
async def relayed(url: str, exchange: str, pattern: str) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    """A queue of this test's own that takes what the relay sends."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1000)
        queue = await channel.declare_queue(f"{exchange}.{pattern}.test", durable=True)
        await queue.bind(await channel.get_exchange(exchange), pattern)
        yield queue


async def drain_until(queue: aio_pika.abc.AbstractQueue, count: int) -> list[tuple[str, int, bytes]]:
    """(topic, offset, data) as they arrive, until `count` different offsets did; bounded by the test's timeout."""
    arrived: list[tuple[str, int, bytes]] = []
    places: set[tuple[str, int]] = set()
    async with queue.iterator() as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            topic, offset = str(delivery.headers["x-trivium-topic"]), int(str(delivery.headers["x-trivium-offset"]))
            arrived.append((topic, offset, delivery.body))
            places.add((topic, offset))
            if len(places) >= count:
                break
    return arrived
