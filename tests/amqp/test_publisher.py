"""The relay's publisher on a real RabbitMQ, read by aio-pika."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aio_pika.abc import AbstractChannel
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from core.health import Health
from core.messages import StoredMessage, new_message
from core.ports import Unroutable
from core.settings import Settings
from tests.amqp.conftest import take
from transports.amqp.connection import Broker
from transports.amqp.mapping import properties_of
from transports.amqp.publisher import PikaPublisher
from transports.amqp.topology import Topology

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def stored(offset: int, topic: str = "orders", data: bytes = b"x") -> StoredMessage:
    return StoredMessage(topic, offset, NOW, new_message(data, id="same id", content_type="text/plain"))


@pytest.fixture
async def bound(publisher: PikaPublisher, client: AbstractChannel, names: Topology) -> str:
    """A queue for the topic `orders`."""
    queue = await client.declare_queue(f"{names.prefix}.{uuid.uuid4().hex}", exclusive=True)
    await queue.bind(names.out, "orders")
    return queue.name


async def test_the_cloudevents_sdk_reads_what_is_relayed(
    publisher: PikaPublisher, client: AbstractChannel, bound: str
) -> None:
    """Attributes, time and data, from the headers of a delivery."""
    message = new_message(b"hello", id="1", source="/s", type="t", content_type="text/plain", subject="é", key="k")
    await publisher.publish(StoredMessage("orders", 7, NOW, message))
    [delivery] = await take(client, bound)
    headers = {name: value for name, value in delivery.headers.items() if isinstance(value, str)}
    event = from_binary(RabbitMQMessage(headers, delivery.content_type, delivery.body), JSONFormat())
    assert (event.get_id(), event.get_source(), event.get_type()) == ("1", "/s", "t")
    assert (event.get_subject(), event.get_time(), event.get_data()) == ("é", NOW, "hello")
    assert event.get_extension("partitionkey") == "k"
    assert (delivery.headers["x-trivium-topic"], delivery.headers["x-trivium-offset"]) == ("orders", 7)
    assert (delivery.message_id, delivery.type, delivery.routing_key) == ("1", "t", "orders")
    assert (delivery.delivery_mode, delivery.timestamp) == (2, NOW)


async def test_a_return_counts_although_an_ack_follows(
    publisher: PikaPublisher, client: AbstractChannel, names: Topology, bound: str
) -> None:
    """Only the messages that no queue took fail, although all have one id."""
    answers = [publisher.publish(stored(offset, topic)) for offset in range(1, 51) for topic in ("orders", "nowhere")]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert outcomes[::2] == [None] * 50
    assert all(isinstance(outcome, Unroutable) for outcome in outcomes[1::2])
    assert len(await take(client, bound, 50)) == 50


async def test_the_same_offset_may_be_in_flight_twice(
    publisher: PikaPublisher, client: AbstractChannel, bound: str
) -> None:
    """As after a failure, when a topic begins again at its cursor."""
    await asyncio.gather(*(publisher.publish(stored(1)) for _ in range(3)))
    nowhere = [publisher.publish(stored(1, "nowhere")) for _ in range(3)]
    for answer in nowhere:
        with pytest.raises(Unroutable):
            await answer


async def test_large_and_empty_messages(publisher: PikaPublisher, client: AbstractChannel, bound: str) -> None:
    """A body of several frames, and none at all."""
    bodies = [b"", b"x" * 1_000_000, b"", b"y" * 131_072]
    await asyncio.gather(*(publisher.publish(stored(offset, data=body)) for offset, body in enumerate(bodies, 1)))
    assert [delivery.body for delivery in await take(client, bound, 4)] == bodies


async def test_properties_that_no_frame_holds_cost_their_message_alone(
    settings: Settings, health: Health, client: AbstractChannel, bound: str
) -> None:
    """They would end the connection, for all topics and at each attempt; one that just fits is sent."""
    small = msgspec.structs.replace(settings, amqp_url=f"{settings.amqp_url}?frame_max=4096")
    async with Broker(small, health) as broker:
        publisher = PikaPublisher(broker, small)
        await publisher.ready()
        least = len(properties_of(attributed(1, 0)))
        room = publisher._outlet.properties_bytes - least
        large, fitting = publisher.publish(attributed(1, room + 1)), publisher.publish(attributed(2, room))
        with pytest.raises(Unroutable, match="its properties take 4077 bytes, a frame has room for 4076"):
            await large
        await fitting
        assert broker.output._connections == 1
    [delivery] = await take(client, bound)
    assert delivery.headers["x-trivium-offset"] == 2


def attributed(offset: int, size: int) -> StoredMessage:
    """A message with an attribute of that size."""
    return StoredMessage("orders", offset, NOW, new_message(b"x", attributes={"large": "x" * size}))


async def test_messages_of_one_turn_of_the_loop_are_one_write(
    publisher: PikaPublisher, broker: Broker, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call for each would cost more than the rest of its way."""
    connection = broker.output._connection
    assert connection is not None
    transport: Any = connection.raw._transport
    writes: list[bytes] = []
    write = transport.write

    def counted(data: bytes) -> None:
        writes.append(data)
        write(data)

    monkeypatch.setattr(transport, "write", counted)
    await asyncio.gather(*(publisher.publish(stored(offset)) for offset in range(1, 101)))
    assert len(writes) == 1


async def test_a_deleted_exchange_is_made_again(
    publisher: PikaPublisher, client: AbstractChannel, names: Topology
) -> None:
    """The channel is closed for it (404), what is in flight fails, and the topology is declared again."""
    await client.exchange_delete(names.out)
    with pytest.raises(Exception, match=r"NOT_FOUND.*\.out"):
        await publisher.publish(stored(1))
    await publisher.ready()
    with pytest.raises(Unroutable):
        await publisher.publish(stored(1))
