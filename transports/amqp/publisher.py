"""The relay's way to RabbitMQ."""

from asyncio import Future
from collections.abc import Hashable, Iterator

from core.errors import InvalidArgument
from core.messages import StoredMessage
from core.settings import Settings
from core.telemetry.figures import Figure
from transports.amqp import mapping, properties
from transports.amqp.connection import Broker
from transports.amqp.outlet import Outlet


class PikaPublisher:
    """`core.ports.BrokerPublisher` to the exchange `<prefix>.out`, the topic as routing key."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._outlet = Outlet(broker, broker.output, "relay", broker.topology.out, _key_of)

    def figures(self) -> Iterator[Figure]:
        return self._outlet.figures()

    async def ready(self) -> None:
        await self._outlet.ready()

    def publish(self, stored: StoredMessage) -> Future[None]:
        return self._outlet.publish(
            stored.topic,
            mapping.properties_of(stored),
            stored.message.data,
            (stored.topic, stored.offset),
        )


def _key_of(topic: str, raw: bytes) -> Hashable:
    try:
        return topic, properties.decode(raw).headers.get(mapping.OFFSET_HEADER)
    except InvalidArgument:  # none of ours
        return None
