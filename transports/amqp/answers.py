"""Answers to RPCs, to queues that their callers name."""

import asyncio

import structlog
from msgspec import Struct

from core.ports import Undeliverable
from transports.amqp import properties
from transports.amqp.connection import Broker
from transports.amqp.outlet import Outlet
from transports.amqp.properties import Encoded

log = structlog.get_logger("trivium.amqp")

#: An answer that failed alone so often is given up.
_ATTEMPTS = 2


class Answer(Struct, frozen=True):
    type: str
    content_type: str
    body: bytes


class Answers:
    """Sends answers, many at once until one costs the connection.

    RabbitMQ 3.10 ends the connection (541 INTERNAL_ERROR) that publishes to a malformed direct reply-to. Everything in
    flight fails with it, so each is tried again alone: the culprit is found, and the others get through.
    """

    def __init__(self, broker: Broker) -> None:
        self._outlet = Outlet(broker, broker.answers, "answers", lambda _routing_key, _properties: None)
        self._alone = asyncio.Lock()

    async def send(self, answer: Answer, reply_to: bytes, correlation_id: bytes | None) -> None:
        """Return once RabbitMQ has it, or it is given up. A queue that is gone is not missed, nor is its caller."""
        fields = {"content_type": answer.content_type.encode(), "type": answer.type.encode()}
        if correlation_id is not None:
            fields["correlation_id"] = correlation_id
        encoded = Encoded(properties.encode(fields, {}))
        await self._outlet.ready()
        if not self._alone.locked() and await self._try(reply_to, encoded, answer.body):
            return
        for _ in range(_ATTEMPTS):
            async with self._alone:
                await self._outlet.ready()
                if await self._try(reply_to, encoded, answer.body):
                    return
        log.warning("an answer is given up", reply_to=repr(reply_to))

    async def _try(self, reply_to: bytes, encoded: Encoded, body: bytes) -> bool:
        try:
            await self._outlet.publish("", reply_to, encoded, body)
        except Undeliverable:
            return False
        return True
