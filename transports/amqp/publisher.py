"""The relay's way to RabbitMQ."""

from asyncio import Future
from collections.abc import Hashable

from core.errors import InvalidArgument
from core.messages import StoredMessage
from core.settings import Settings
from transports.amqp import mapping, properties
from transports.amqp.connection import Broker
from transports.amqp.outlet import Outlet
from transports.amqp.properties import Encoded


class PikaPublisher:
    """`core.ports.BrokerPublisher` to the exchange `<prefix>.out`, the topic as routing key."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._exchange = broker.topology.out
        self._outlet = Outlet(broker, broker.output, "relay", _key_of)

    async def ready(self) -> None:
        await self._outlet.ready()

    def publish(self, stored: StoredMessage) -> Future[None]:
        return self._outlet.publish(
            self._exchange,
            stored.topic,
            Encoded(mapping.properties_of(stored)),
            stored.message.data,
            (stored.topic, stored.offset),
        )


def _key_of(topic: str, raw: bytes) -> Hashable:
    try:
        return topic, properties.decode(raw).headers.get(mapping.OFFSET_HEADER)
    except InvalidArgument:  # none of ours
        return None
