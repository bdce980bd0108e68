"""Publish through each door, observe through each."""

from contextlib import aclosing
from datetime import UTC, datetime

import aio_pika
import pytest

from core.messages import Message, StoredMessage
from core.settings import Settings
from main import Running
from tests.conformance.clients import Client, Grpc, Rest
from tests.conformance.test_service import contents

TIME = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
MESSAGE = Message(
    id="order-1",
    source="urn:shop",
    type="order.placed",
    data='{"größe": 1.50}'.encode(),
    content_type="application/json",
    subject="Bestellung für 日本",
    time=TIME,
    key="customer-7",
    attributes={"dataschema": "urn:schema:order", "region": "eu", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
)


class Amqp:
    """A plain producer and a plain queue."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: aio_pika.abc.AbstractQueue, prefix: str) -> None:
        self._channel = channel
        self._queue = queue
        self._prefix = prefix

    async def publish(self, topic: str, message: Message) -> None:
        headers: dict[str, aio_pika.abc.FieldValue] = {
            "ce-specversion": "1.0",
            "ce-id": message.id,
            "ce-source": message.source,
            "ce-type": message.type,
            "ce-subject": message.subject,
            "ce-time": "2026-01-31T12:00:00.123456Z",
            "ce-partitionkey": message.key,
            "ce-dataschema": message.attributes["dataschema"],
            "ce-region": message.attributes["region"],
            "traceparent": message.attributes["traceparent"],
        }
        exchange = await self._channel.get_exchange(f"{self._prefix}.in")
        await exchange.publish(
            aio_pika.Message(message.data, headers=headers, content_type=message.content_type), topic, mandatory=True
        )

    async def observe(self) -> StoredMessage:
        async with self._queue.iterator(no_ack=True, timeout=60) as deliveries:
            one = await anext(aiter(deliveries))
        assert (one.message_id, one.type, one.delivery_mode) == ("order-1", "order.placed", 2)
        headers = {name: str(value) for name, value in one.headers.items()}
        place = headers.pop("x-trivium-topic"), int(headers.pop("x-trivium-offset"))
        named = {name.removeprefix("ce-"): value for name, value in headers.items()}
        assert named.pop("specversion") == "1.0"
        message = Message(
            id=named.pop("id"),
            source=named.pop("source"),
            type=named.pop("type"),
            data=one.body,
            content_type=str(one.content_type),
            subject=named.pop("subject"),
            key=named.pop("partitionkey"),
            attributes=named,
        )
        return StoredMessage(*place, datetime.fromisoformat(named.pop("time")), message)


@pytest.mark.parametrize("observer", ["rest", "grpc", "amqp"])
@pytest.mark.parametrize("publisher", ["rest", "grpc", "amqp"])
async def test_each_way(
    publisher: str, observer: str, trivium: Running, settings: Settings, rest: Rest, grpc_client: Grpc
) -> None:
    """The message arrives with every attribute as it was published, at offset 1."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(f"{settings.amqp_prefix}.out", "orders.*")
        amqp = Amqp(channel, queue, settings.amqp_prefix)
        clients: dict[str, Client] = {"rest": rest, "grpc": grpc_client}
        if publisher == "amqp":
            await amqp.publish("orders.new", MESSAGE)
        else:
            await clients[publisher].publish("orders.new", [MESSAGE])
        if observer == "amqp":
            seen = await amqp.observe()
        else:
            async with aclosing(clients[observer].follow("orders.new", 0)) as stored:
                seen = await anext(stored)
    expected = contents(StoredMessage("orders.new", 1, TIME, MESSAGE))
    if observer == "rest":  # the test's client reads JSON data as JSON
        assert seen.message.data == b'{"gr\\u00f6\\u00dfe": 1.5}'
        expected = (*expected[:6], seen.message.data, *expected[7:])
    assert contents(seen) == expected
