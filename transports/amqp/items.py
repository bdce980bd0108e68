"""What the inbox has in hand."""

from collections.abc import Sequence

import structlog

from core.errors import Internal, TriviumError
from core.limits import Limits
from core.messages import Message
from core.telemetry.propagation import carries_trace
from transports.amqp import properties
from transports.amqp.frames import Delivery
from transports.amqp.mapping import message_of

log = structlog.get_logger("trivium.amqp")


class Item:
    """A delivery on its way. It is decoded once, so that another attempt has the same identity."""

    __slots__ = ("attempts", "delivery", "message", "user")

    def __init__(self, delivery: Delivery, limits: Limits) -> None:
        self.delivery = delivery
        self.attempts = 0
        self.user: str | None = None
        self.message: Message | TriviumError
        try:
            found = properties.decode(delivery.properties)
            self.user = found.user_id
            self.message = message_of(found, delivery.body, limits)
        except TriviumError as error:
            self.message = error.bare()
        except Exception:  # the boundary of one message: else it would come again for ever, and all others wait
            log.exception("a message could not be read")
            self.message = Internal("the message could not be read")

    @property
    def topic(self) -> str:
        key = self.delivery.routing_key
        return key if isinstance(key, str) else repr(key)


def together(items: Sequence[Item]) -> list[Message] | None:
    """The messages of items that may be one publication: several, from one sender to one topic.

    None if they may not: one has no message, or belongs to a trace and has a span of its own.
    """
    messages = [
        message
        for item in items
        if isinstance(message := item.message, Message) and not (message.attributes and carries_trace(message))
    ]
    one_way = len({(item.delivery.routing_key, item.user) for item in items}) == 1
    return messages if one_way and 1 < len(messages) == len(items) else None
