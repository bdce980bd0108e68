"""Messages as AMQP 0-9-1 carries them, both ways."""

from datetime import datetime

from core.errors import InvalidArgument, TooLarge, UnsupportedMediaType
from core.limits import Limits, media_type
from core.messages import TRACE_ATTRIBUTES, Message, StoredMessage
from transports import cloudevents
from transports.amqp import properties
from transports.amqp.properties import Header, Properties, Unfit

TOPIC_HEADER = "x-trivium-topic"
OFFSET_HEADER = "x-trivium-offset"
_PREFIX = "ce-"
#: What the CloudEvents binding for AMQP 1.0 has instead, in lower case; its clients also talk to RabbitMQ.
_OTHER_PREFIXES = ("cloudevents:", "cloudevents_")
_CONTENT_TYPE = "datacontenttype"
_ENVELOPES = "application/cloudevents"
#: An event in JSON takes up to so many times the bytes of its message: an escape has six for one.
_EVENT_TIMES = 8
#: Encodings that leave the bytes as they are; some clients name a charset or kind here.
_PLAIN_ENCODINGS = frozenset({"identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "7bit", "8bit"})


def _blank(name: str) -> bytes:
    """The header of a text of at most 255 bytes, which every attribute but extensions is, for `%`."""
    return b"%c%bS\0\0\0%%c%%b" % (len(name), name.encode())


#: The headers that every message has, to be filled in by one `%`: one by one they were a seventh of the relay's CPU.
_HEADERS = b"".join(
    (
        _blank(TOPIC_HEADER),
        b"%c%bl%%b" % (len(OFFSET_HEADER), OFFSET_HEADER.encode()),
        properties.table({_PREFIX + "specversion": cloudevents.SPECVERSION}),
        *(_blank(_PREFIX + name) for name in ("id", "source", "type", "time")),
    )
)

#: Those that every message has, in the order of the wire: content_type, headers, delivery_mode (2, persistent),
#: message_id, timestamp, type. Joined one by one they took as long as the headers.
_PROPERTIES = b"%b%c%b%b%b\2%c%b%b%c%b"
_TIMED = properties.flags("content_type", "headers", "delivery_mode", "message_id", "timestamp", "type")
#: AMQP knows no time before 1970; `ce-time` tells it.
_UNTIMED = properties.flags("content_type", "headers", "delivery_mode", "message_id", "type")


def properties_of(stored: StoredMessage) -> bytes:
    """The properties of a stored message: every attribute as a header, some repeated in properties."""
    message = stored.message
    id_, source, type_ = message.id.encode(), message.source.encode(), message.type.encode()
    topic, time = stored.topic.encode(), cloudevents.format_time(stored.time).encode()
    offset = stored.offset.to_bytes(8)
    headers = _HEADERS % (
        *(len(topic), topic, offset),
        *(len(id_), id_, len(source), source, len(type_), type_, len(time), time),
    )
    if message.subject is not None or message.key is not None or message.attributes:
        headers += _optional(message)
    content_type = message.content_type.encode()
    seconds = int(stored.time.timestamp())
    flags, timestamp = (_TIMED, seconds.to_bytes(8)) if seconds >= 0 else (_UNTIMED, b"")
    return _PROPERTIES % (
        *(flags, len(content_type), content_type, len(headers).to_bytes(4), headers),
        *(len(id_), id_, timestamp, len(type_), type_),
    )


def _optional(message: Message) -> bytes:
    headers: dict[str, str | int] = {}
    if message.subject is not None:
        headers[_PREFIX + "subject"] = message.subject
    if message.key is not None:
        headers[_PREFIX + "partitionkey"] = message.key
    for name, value in message.attributes.items():
        headers[name if name in TRACE_ATTRIBUTES else _PREFIX + name] = value
    return properties.table(headers)


def message_of(found: Properties, body: bytes, limits: Limits) -> Message:
    """The message that a producer meant.

    `ce-*` headers win over those of other prefixes, all of them over properties, these over what is filled in. Raises
    `InvalidArgument`, `UnsupportedMediaType` or `TooLarge` and nothing else. Limits are judged when it is published,
    except for an event that would take long to read.
    """
    attributes = _attributes(found)
    content_type = attributes.pop(_CONTENT_TYPE, found.content_type)
    if found.content_encoding is not None and found.content_encoding.lower() not in _PLAIN_ENCODINGS:
        raise UnsupportedMediaType("the body must not be encoded (compressed)", field="content_encoding")
    media = "" if content_type is None else media_type(content_type)
    if media == cloudevents.STRUCTURED:
        most = _EVENT_TIMES * limits.message_bytes
        if len(body) > most:
            raise TooLarge(f"{len(body)} bytes, at most {most} in an event", field="body")
        return cloudevents.decode_event(body, limits)
    if media.startswith(_ENVELOPES):
        raise UnsupportedMediaType(
            f"a CloudEvent in a message of its own must be {cloudevents.STRUCTURED}", field="content_type"
        )
    if "id" not in attributes and found.message_id is not None:
        attributes["id"] = found.message_id
    if "type" not in attributes and found.type is not None:
        attributes["type"] = found.type
    if "time" not in attributes and found.timestamp is not None:
        attributes["time"] = cloudevents.format_time(properties.time_of(found.timestamp, "timestamp"))
    return cloudevents.message_of(attributes, body, content_type)


def _attributes(found: Properties) -> dict[str, str]:
    attributes = {}
    for header, value in found.headers.items():
        name = header.lower()
        if name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        elif name.startswith(_OTHER_PREFIXES):
            name = name[len(_OTHER_PREFIXES[0]) :]
            if _PREFIX + name in found.headers:
                continue
        elif name not in TRACE_ATTRIBUTES or _PREFIX + name in found.headers:
            continue
        text = value if isinstance(value, str) and not isinstance(value, Unfit) else _canonical(header, value)
        if text is not None:
            attributes[name] = text
    return attributes


def _canonical(header: str, value: Header) -> str | None:
    """The string of a value by CloudEvents' type system; None for one that is absent."""
    match value:
        case Unfit():
            raise InvalidArgument(f"must be a string, an integer or a boolean, not {value}", field=header[:40])
        case bool():
            return "true" if value else "false"
        case datetime():
            return cloudevents.format_time(value)
        case None:
            return None
        case _:
            return str(value)
