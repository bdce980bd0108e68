"""What `BrokerPublisher` promises: by RabbitMQ, and by the fake that users test with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Protocol

import aio_pika
import pytest

from core.health import Health
from core.messages import StoredMessage, new_message
from core.ports import BrokerPublisher, Undeliverable, Unroutable
from core.settings import Settings
from testing.broker import FakeBroker
from tools.rabbitmq import Node
from transports.amqp.connection import Broker
from transports.amqp.publisher import PikaPublisher

NOW = datetime(2026, 1, 31, tzinfo=UTC)


class Bench(Protocol):
    """A publisher, and the hands on the broker behind it."""

    @property
    def publisher(self) -> BrokerPublisher: ...

    async def bind(self, topic: str) -> None: ...
    async def received(self, count: int) -> list[tuple[str, int]]: ...
    async def down(self) -> None: ...
    async def up(self) -> None: ...


class Fake:
    def __init__(self) -> None:
        self.publisher = self.broker = FakeBroker()

    async def bind(self, topic: str) -> None:
        self.broker.bind(topic)

    async def received(self, count: int) -> list[tuple[str, int]]:
        return [(one.topic, one.offset) for one in await self.broker.received(count)]

    async def down(self) -> None:
        self.broker.down()

    async def up(self) -> None:
        self.broker.up()


class RabbitMq:
    def __init__(self, node: Node, publisher: BrokerPublisher) -> None:
        self.node = node
        self.publisher = publisher

    async def bind(self, topic: str) -> None:
        async with await aio_pika.connect(self.node.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("received", durable=True)
            await queue.bind("trivium.out", topic)

    async def received(self, count: int) -> list[tuple[str, int]]:
        found = []
        async with await aio_pika.connect(self.node.url) as connection:
            queue = await (await connection.channel()).get_queue("received")
            async with queue.iterator(no_ack=True) as deliveries:
                async for one in deliveries:
                    found.append((str(one.routing_key), int(str(one.headers["x-trivium-offset"]))))
                    if len(found) == count:
                        break
        return found

    async def down(self) -> None:
        await asyncio.to_thread(self.node.kill)

    async def up(self) -> None:
        self.node.start()  # it would end with any other thread


@pytest.fixture(params=["fake", "rabbitmq"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "fake":
        yield Fake()
        return
    node: Node = request.getfixturevalue("rabbitmq_node")
    # RabbitMQ may never confirm what comes while a queue is on its way back: it is given up well before the test is
    settings = Settings(amqp_url=node.url, amqp_confirm_seconds=5)
    async with AsyncExitStack() as stack:
        broker = Broker(settings, Health())
        publisher = PikaPublisher(broker, settings)
        await stack.enter_async_context(broker)
        yield RabbitMq(node, publisher)


def stored(topic: str, offset: int) -> StoredMessage:
    return StoredMessage(topic, offset, NOW, new_message(b"x"))


async def test_a_routed_message_is_confirmed_in_order(bench: Bench) -> None:
    """Messages in flight together are all confirmed, and arrive in the order of the calls."""
    await bench.publisher.ready()
    await bench.bind("t")
    await asyncio.gather(*(bench.publisher.publish(stored("t", offset)) for offset in range(1, 101)))
    assert await bench.received(100) == [("t", offset) for offset in range(1, 101)]


async def test_a_message_without_a_queue_is_unroutable(bench: Bench) -> None:
    """It fails, and its neighbours do not."""
    await bench.publisher.ready()
    await bench.bind("t")
    before, lost, after = (bench.publisher.publish(stored(topic, 1)) for topic in ("t", "nowhere", "t"))
    await before
    with pytest.raises(Unroutable):
        await lost
    await after


async def test_a_broker_that_is_away_takes_nothing(bench: Bench) -> None:
    """Publishing fails without raising at the call; `ready` waits until the broker is back."""
    await bench.publisher.ready()
    await bench.bind("t")
    await bench.publisher.publish(stored("t", 1))
    await bench.down()
    with pytest.raises(Undeliverable):
        await bench.publisher.publish(stored("t", 2))
    ready = asyncio.ensure_future(bench.publisher.ready())
    await bench.up()
    await ready
    async with asyncio.timeout(30):
        while True:  # a queue may be back later than its broker, and takes nothing before
            with suppress(Undeliverable):
                await bench.publisher.publish(stored("t", 3))
                break
    arrived = await bench.received(2)
    assert arrived[0] == ("t", 1)
    assert arrived[-1] == ("t", 3)
