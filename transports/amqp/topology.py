"""The exchanges and queues of the AMQP door. All are durable."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.wire import Connection

#: No delivery limit in effect: lost connections count as deliveries and must not cost good messages. "-1" lost some
#: on RabbitMQ 3.10.
_NO_LIMIT = 2**31 - 1
_ACCESS_REFUSED = 403


class Exchange(Struct, frozen=True):
    name: str
    kind: str


class Queue(Struct, frozen=True):
    """A quorum queue, bound to the exchange of its own name if `binding_key` says how."""

    name: str
    arguments: Mapping[str, Any]
    binding_key: str | None


class Topology(Struct, frozen=True):
    """The names, by their prefix."""

    prefix: str

    @property
    def inbox(self) -> str:
        return f"{self.prefix}.in"

    @property
    def out(self) -> str:
        return f"{self.prefix}.out"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    @property
    def rpc(self) -> str:
        return f"{self.prefix}.rpc"

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        return Exchange(self.inbox, "topic"), Exchange(self.out, "topic"), Exchange(self.dead, "fanout")

    @property
    def queues(self) -> tuple[Queue, ...]:
        quorum = {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}
        inbox = {
            **quorum,
            "x-single-active-consumer": True,  # keeps the order where several Triviums run
            "x-overflow": "reject-publish",
        }
        return Queue(self.inbox, inbox, "#"), Queue(self.dead, quorum, ""), Queue(self.rpc, quorum, None)


class TopologyError(Exception):
    """An exchange or a queue is not as it should be; the text names it, and the argument if that is what differs."""


async def declare(connection: Connection, topology: Topology) -> None:
    """Make everything that is missing. Raises `TopologyError` for what exists and differs, or is not allowed."""
    channel = await Channel.open(connection)
    for exchange in topology.exchanges:
        await _step(
            channel,
            f"exchange {exchange.name!r}",
            "exchange_declare",
            exchange=exchange.name,
            exchange_type=exchange.kind,
            durable=True,
        )
    for queue in topology.queues:
        subject = f"queue {queue.name!r}"
        await _step(channel, subject, "queue_declare", queue=queue.name, durable=True, arguments=queue.arguments)
        if queue.binding_key is not None:
            await _step(
                channel,
                f"the binding of {subject}",
                "queue_bind",
                queue=queue.name,
                exchange=queue.name,
                routing_key=queue.binding_key,
            )
    await channel.close()


async def check(connection: Connection, topology: Topology) -> None:
    """Raise `TopologyError` for an exchange or queue that is missing; what it looks like AMQP doesn't tell."""
    channel = await Channel.open(connection)
    for exchange in topology.exchanges:
        await _step(channel, f"exchange {exchange.name!r}", "exchange_declare", exchange=exchange.name, passive=True)
    for queue in topology.queues:
        await _step(channel, f"queue {queue.name!r}", "queue_declare", queue=queue.name, passive=True)
    await channel.close()


async def _step(channel: Channel, subject: str, method: str, **arguments: Any) -> None:
    try:
        await channel.call(method, **arguments)
    except ChannelLost as error:
        if not error.code or channel.connection.lost.done():
            raise
        declaring = not arguments.get("passive")
        verb = "can't be declared" if declaring else "was not found, and amqp_declare is off"
        hint = "; without the right to configure it, set amqp_declare to false"
        raise TopologyError(
            f"{subject} {verb}: {error}{hint if declaring and error.code == _ACCESS_REFUSED else ''}"
        ) from error
