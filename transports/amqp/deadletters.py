"""What the AMQP door gives up goes to `<prefix>.dead`."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import structlog

from core.errors import TriviumError
from core.ports import Unroutable
from core.settings import Settings
from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from transports.amqp import properties
from transports.amqp.connection import Broker
from transports.amqp.frames import Delivery
from transports.amqp.link import Backoff
from transports.amqp.outlet import Outlet

log = structlog.get_logger("trivium.amqp")

CODE = "x-trivium-error-code"
DETAIL = "x-trivium-error-detail"
EXCHANGE = "x-trivium-exchange"
ROUTING_KEY = "x-trivium-routing-key"
_DETAIL_CHARACTERS = 1000


class DeadLetters:
    """Publishes messages with the reason, body and properties as they came."""

    def __init__(self, broker: Broker, settings: Settings, part: str) -> None:
        self._part = part
        self._buried: Counter[str] = Counter()
        self._retry_seconds = settings.amqp_retry_seconds
        self._outlet = Outlet(broker, broker.output, f"dead letters of the {part}", broker.topology.dead, self._key_of)

    async def bury(self, dead: Sequence[tuple[Delivery, TriviumError]]) -> None:
        """Return once RabbitMQ holds all of them in a queue, however long that takes; in their order at first."""
        backoff = Backoff(self._retry_seconds)
        codes = [error.code for _, error in dead]
        while dead:
            await self._outlet.ready()
            confirms = [self._publish(delivery, error) for delivery, error in dead]
            try:
                await asyncio.wait(confirms)
            finally:
                for confirm in confirms:
                    confirm.cancel()  # of those that failed, asyncio then does not tell that nobody asked
            failed = [confirm.exception() for confirm in confirms]
            dead = [one for one, failure in zip(dead, failed, strict=True) if failure is not None]
            if dead:
                log.warning("dead letters are sent again", n=len(dead), reason=str(next(filter(None, failed))))
                if any(isinstance(failure, Unroutable) for failure in failed):
                    self._outlet.renew()
                await asyncio.sleep(backoff.seconds())
        self._buried.update(codes)

    def figures(self) -> Iterator[Figure]:
        yield from self._outlet.figures()
        for code, count in self._buried.items():
            yield vocabulary.DEAD_LETTERS.of(count, self._part, code)

    def _publish(self, delivery: Delivery, error: TriviumError) -> asyncio.Future[None]:
        headers = {
            CODE: error.code,
            DETAIL: str(error)[:_DETAIL_CHARACTERS],
            EXCHANGE: _text(delivery.exchange),
            ROUTING_KEY: _text(delivery.routing_key),
        }
        raw = properties.republished(delivery.properties, headers, self._outlet.properties_bytes)
        return self._outlet.publish(delivery.routing_key, raw, delivery.body, 0)

    @staticmethod
    def _key_of(_routing_key: str, _raw: bytes) -> Hashable:
        """All have one key: they go to the same queue, so if one is returned, most are, and all are sent again."""
        return 0


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode(errors="replace")
