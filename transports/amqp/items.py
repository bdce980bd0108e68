"""What the inbox has in hand."""

from core.errors import TriviumError
from core.messages import Message
from core.telemetry.propagation import carries_trace
from transports.amqp import properties
from transports.amqp.frames import Delivery
from transports.amqp.mapping import message_of


class Item:
    """A delivery on its way. It is decoded once, so that another attempt has the same identity."""

    __slots__ = ("attempts", "delivery", "message", "user")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.attempts = 0
        self.user: str | None = None
        self.message: Message | TriviumError
        try:
            found = properties.decode(delivery.properties)
            self.user = found.user_id
            self.message = message_of(found, delivery.body)
        except TriviumError as error:
            self.message = error

    @property
    def topic(self) -> str:
        key = self.delivery.routing_key
        return key if isinstance(key, str) else repr(key)

    def goes_with(self, other: "Item") -> bool:
        """Whether it may be published together with another that may. What belongs to a trace has its own span."""
        return (
            isinstance(self.message, Message)
            and self.delivery.routing_key == other.delivery.routing_key
            and self.user == other.user
            and not carries_trace(self.message)
        )
