"""The values that Trivium moves: frozen, without locks, sockets or acknowledgement state."""

import os
import time as _time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import count

from msgspec import Struct

DEFAULT_SOURCE = "urn:trivium"
DEFAULT_TYPE = "trivium.message"
DEFAULT_CONTENT_TYPE = "application/octet-stream"
#: Shared, for most messages have none.
NO_ATTRIBUTES: Mapping[str, str] = {}

#: W3C trace context and baggage: they tell how a message travelled, not what it says.
TRACE_ATTRIBUTES = frozenset({"traceparent", "tracestate", "baggage"})

#: What the objects of a message, and of each of its attributes, take in memory beside the text, with a good margin.
_OBJECTS = 1024
_ATTRIBUTE_OBJECTS = 160


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """What a publisher hands over: the attributes of CloudEvents 1.0 and the data.

    `time` (aware, UTC) is None where the publisher gave none. `key` is CloudEvents' `partitionkey`.
    `attributes` holds `dataschema` and every extension, by its CloudEvents name, as canonical strings.
    """

    id: str
    source: str
    type: str
    data: bytes
    content_type: str
    subject: str | None = None
    time: datetime | None = None
    key: str | None = None
    attributes: Mapping[str, str] = {}


class StoredMessage(Struct, frozen=True, gc=False):
    """A message at its place in a topic. `time` is the publisher's, or else when it was stored."""

    topic: str
    offset: int
    time: datetime
    message: Message


class Published(Struct, frozen=True, gc=False):
    """Where a published message stands; `duplicate` if its identity was stored before."""

    topic: str
    offset: int
    id: str
    duplicate: bool


class Page(Struct, frozen=True):
    """Messages of one topic in offset order. `next` is the cursor that continues after them."""

    messages: tuple[StoredMessage, ...]
    next: int


class TopicHead(Struct, frozen=True, gc=False):
    """A topic and the offset of its newest message."""

    topic: str
    head: int


class TopicPage(Struct, frozen=True):
    """Topics in name order. `next` is the name to continue after, None at the end."""

    topics: tuple[TopicHead, ...]
    next: str | None


class Greeting(Struct, frozen=True):
    """What `get data` answers with while its topic is empty."""

    topic: str
    text: str


class StaleMessage(StoredMessage, frozen=True, gc=False):
    """An earlier answer of `get data`, repeated since the core can't be reached; it was current `age` seconds ago."""

    age: float


class StaleGreeting(Greeting, frozen=True):
    """As `StaleMessage`, for a topic that was empty."""

    age: float


class StalePage(Page, frozen=True):
    """As `StaleMessage`, for a page."""

    age: float


def new_message(
    data: bytes,
    *,
    id: str | None = None,
    source: str | None = None,
    type: str | None = None,
    content_type: str | None = None,
    subject: str | None = None,
    time: datetime | None = None,
    key: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Message:
    """A message with what its publisher left out filled in; `Limits.check` judges it later."""
    return Message(
        id=uuid7() if id is None else id,
        source=DEFAULT_SOURCE if source is None else source,
        type=DEFAULT_TYPE if type is None else type,
        data=data,
        content_type=DEFAULT_CONTENT_TYPE if content_type is None else content_type,
        subject=subject,
        time=time,
        key=key,
        attributes=attributes or NO_ATTRIBUTES,
    )


def weight(message: Message) -> int:
    """About the bytes that a message takes on a wire, never less than its protobuf form."""
    strings = len(message.id) + len(message.source) + len(message.type) + len(message.content_type)
    if message.subject is not None:
        strings += len(message.subject)
    if message.key is not None:
        strings += len(message.key)
    found = len(message.data) + 4 * strings + 300
    if message.attributes:
        for name, value in message.attributes.items():
            found += len(name) + 4 * len(value) + 8
    return found


def size_of(message: Message) -> int:
    """The bytes of data and attributes in UTF-8, which `Limits` bounds."""
    text = f"{message.id}{message.source}{message.type}{message.content_type}"
    if message.subject is not None:
        text += message.subject
    if message.key is not None:
        text += message.key
    if message.attributes:
        text += "".join(message.attributes) + "".join(message.attributes.values())
    return len(message.data) + (len(text) if text.isascii() else len(text.encode(errors="surrogatepass")))


def held(message: Message) -> int:
    """The bytes of memory that a message takes, with a margin."""
    return weight(message) + _OBJECTS + len(message.attributes) * _ATTRIBUTE_OBJECTS


def held_by(messages: Sequence[Message], size: int) -> int:
    """As `held` of each, but from the bytes of their data and attributes in UTF-8, which were counted before."""
    data = attributes = 0
    for message in messages:
        data += len(message.data)
        attributes += len(message.attributes)
    # a character takes up to 4 bytes in memory
    return data + 4 * (size - data) + len(messages) * _OBJECTS + attributes * _ATTRIBUTE_OBJECTS


def same_content(one: Message, other: Message) -> bool:
    """Whether two messages of one identity say the same.

    Trace context is left out, since a retry has another span; `time` counts only where both publishers gave it.
    """
    return (
        one.data == other.data
        and one.type == other.type
        and one.content_type == other.content_type
        and one.subject == other.subject
        and one.key == other.key
        and (one.time is None or other.time is None or one.time == other.time)
        and _without_trace(one.attributes) == _without_trace(other.attributes)
    )


def _without_trace(attributes: Mapping[str, str]) -> Mapping[str, str]:
    if TRACE_ATTRIBUTES.isdisjoint(attributes):
        return attributes
    return {name: value for name, value in attributes.items() if name not in TRACE_ATTRIBUTES}


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): each follows on the last one, so that the identity index grows at its end.

    The first of a millisecond is random, and those after it count on from there (section 6.2, method 2).
    """
    begin, number = _begin(_time.time_ns() // 1_000_000)
    return f"{begin}{number():x}"


@lru_cache(1)
def _begin(milliseconds: int) -> tuple[str, Callable[[], int]]:
    """All but the last twelve digits, and what counts those. Its upper bit keeps their number at twelve."""
    time = f"{milliseconds:012x}"
    random = int.from_bytes(os.urandom(9))  # nobody foresees ids, and takes one before its message comes
    begin = f"{time[:8]}-{time[8:]}-7{random >> 60:03x}-{0x8000 | random >> 46 & 0x3FFF:04x}-"
    return begin, count(1 << 46 | random & (1 << 46) - 1).__next__
