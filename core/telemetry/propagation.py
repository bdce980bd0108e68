"""W3C trace context and baggage, from a request to the messages that it publishes."""

from collections.abc import Mapping, Sequence

import msgspec

from core.limits import Limits
from core.messages import TRACE_ATTRIBUTES, Message
from core.telemetry.requests import current


def propagate(messages: Sequence[Message], limits: Limits) -> Sequence[Message]:
    """The messages with the trace context of the running request, where they bring none and the limits leave room."""
    request = current.get()
    if request is None or not (trace := request.trace_attributes()):
        return messages
    return [message if carries_trace(message) else with_trace(message, trace, limits) for message in messages]


def carries_trace(message: Message) -> bool:
    return not TRACE_ATTRIBUTES.isdisjoint(message.attributes)


def with_trace(message: Message, trace: Mapping[str, str], limits: Limits) -> Message:
    """A message with these attributes too; the same message if the limits leave no room for them."""
    attributes = {**message.attributes, **trace}
    if not _fits(attributes, limits):
        return message
    return msgspec.structs.replace(message, attributes=attributes)


def _fits(attributes: Mapping[str, str], limits: Limits) -> bool:
    """Whether there is room for them, beside six attributes with fields of their own."""
    size = sum(len(name) + 4 * len(value) for name, value in attributes.items()) + 6 * limits.attribute_bytes
    return len(attributes) <= limits.extensions and size <= limits.attributes_bytes
