"""A way out to RabbitMQ that outlives connections."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Hashable, Iterator

from core.ports import Undeliverable, Unroutable
from core.telemetry.figures import Figure
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.confirms import Confirms, Settled
from transports.amqp.connection import Broker
from transports.amqp.link import Link


class Outlet:
    """A channel with confirms, renewed whenever it is lost."""

    def __init__(
        self, broker: Broker, link: Link, part: str, exchange: str, key_of: Callable[[str, bytes], Hashable]
    ) -> None:
        """`key_of` a returned message's routing key and properties is the key that it was published with."""
        self._link = link
        self._exchange = exchange
        self._settled = Settled(exchange)
        self._seconds = broker.confirm_seconds
        self._key_of = key_of
        self._confirms: Confirms | None = None
        #: What the properties of a message may take, 0 while there is no connection.
        self.properties_bytes = 0
        self._open = asyncio.Event()
        self._renewal = asyncio.Event()
        broker.attach(link, part, self._session)

    async def ready(self) -> None:
        """Return once something can be published: connected, and not blocked by an alarm."""
        while not (self._open.is_set() and self._link.flowing.is_set()):
            await self._open.wait()
            await self._link.flowing.wait()

    def publish(self, routing_key: str | bytes, properties: bytes, body: bytes, key: Hashable = None) -> Future[None]:
        """As `Confirms.publish`, to the outlet's exchange.

        Fails with `Undeliverable` while there is no connection, and with `Unroutable` if the properties are larger than
        a frame: RabbitMQ would end the connection for it, at each attempt.
        """
        if self._confirms is None:
            return self._refused(Undeliverable("there is no connection to the broker"))
        if len(properties) > self.properties_bytes:
            return self._refused(
                Unroutable(f"its properties take {len(properties)} bytes, a frame has room for {self.properties_bytes}")
            )
        return self._confirms.publish(self._exchange, routing_key, properties, body, key)

    def figures(self) -> Iterator[Figure]:
        return self._settled.figures()

    def renew(self) -> None:
        """Have the topology declared again: a queue that ought to be there is not."""
        self._renewal.set()

    async def _session(self, channel: Channel, began: Callable[[], None]) -> None:
        # before Confirms fails what is in flight: who hears of that must not be told that it is ready
        channel.lost.add_done_callback(lambda _: self._close())
        self._confirms = await Confirms.on(channel, self._seconds, self._key_of, self._settled)
        self.properties_bytes = channel.connection.properties_bytes
        self._open.set()
        began()
        self._renewal.clear()
        await self._renewal.wait()  # or else the channel is lost, and this cancelled
        raise ChannelLost("no queue takes what is published")

    def _refused(self, failure: Undeliverable) -> Future[None]:
        self._settled.counts["refused"] += 1
        future: Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(failure)
        return future

    def _close(self) -> None:
        self._confirms = None
        self.properties_bytes = 0
        self._open.clear()
