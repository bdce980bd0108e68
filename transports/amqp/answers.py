"""Answers to RPCs, to queues that their callers name."""

import asyncio
from collections.abc import Iterator

import structlog
from msgspec import Struct

from core.ports import Undeliverable
from core.telemetry.figures import Figure
from transports.amqp import properties
from transports.amqp.connection import Broker
from transports.amqp.outlet import Outlet

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
    flight fails with it, so each is tried again while nothing else is in flight: the culprit is found, and the others
    get through.
    """

    def __init__(self, broker: Broker) -> None:
        self._outlet = Outlet(broker, broker.answers, "answers", "", lambda _routing_key, _properties: None)
        self._alone = asyncio.Lock()
        self._together = 0
        self._settled = asyncio.Event()  # nothing is in flight that does not hold the lock
        self._settled.set()

    def figures(self) -> Iterator[Figure]:
        return self._outlet.figures()

    async def send(self, answer: Answer, reply_to: bytes, correlation_id: bytes | None) -> None:
        """Return once RabbitMQ has it, or it is given up. A queue that is gone is not missed, nor is its caller."""
        fields = {"content_type": answer.content_type.encode(), "type": answer.type.encode()}
        if correlation_id is not None:
            fields["correlation_id"] = correlation_id
        encoded = properties.encode(fields, {})
        if not self._alone.locked() and await self._try_together(reply_to, encoded, answer.body):
            return
        async with self._alone:
            await self._settled.wait()
            for _ in range(_ATTEMPTS):
                if await self._try(reply_to, encoded, answer.body):
                    return
        log.warning("an answer is given up", reply_to=repr(reply_to))

    async def _try_together(self, reply_to: bytes, encoded: bytes, body: bytes) -> bool:
        self._together += 1
        self._settled.clear()
        try:
            return await self._try(reply_to, encoded, body)
        finally:
            self._together -= 1
            if not self._together:
                self._settled.set()

    async def _try(self, reply_to: bytes, encoded: bytes, body: bytes) -> bool:
        await self._outlet.ready()
        try:
            await self._outlet.publish(reply_to, encoded, body)
        except Undeliverable:
            return False
        return True
