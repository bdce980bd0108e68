"""CloudEvents 1.0.2: a message from attributes (HTTP and AMQP headers), and its JSON format, both ways."""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from core.errors import InvalidArgument, TriviumError
from core.limits import Limits, check_json, is_json, is_text
from core.messages import NO_ATTRIBUTES, Message, StoredMessage, new_message

SPECVERSION = "1.0"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
#: RFC 8259, section 2.
_SPACE = b" \t\r\n"
#: Content types that are remembered: publishers use few.
_FORMS = 256
REQUIRED = ("specversion", "id", "source", "type")
#: RFC 3339; cut to microseconds.
_Time: TypeAlias = Annotated[datetime, Meta(tz=True)]


class _Plain(Struct, forbid_unknown_fields=True, gc=False):
    """An event without extensions, all of whose attributes are strings, as most are: read in a third of the time."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    datacontenttype: str | None = None
    subject: str | None = None
    time: _Time | None = None
    partitionkey: str | None = None
    data: Raw | UnsetType = UNSET
    data_base64: Raw | UnsetType = UNSET


class _Stored(Struct, frozen=True, gc=False):
    """A stored event without extensions, as most are: made and encoded in 40% of the time that a dict takes."""

    specversion: str
    id: str
    source: str
    type: str
    time: datetime
    datacontenttype: str
    subject: str | UnsetType
    partitionkey: str | UnsetType
    topic: str
    offset: str
    data: Raw | str | UnsetType
    data_base64: bytes | UnsetType


_plain = msgspec.json.Decoder(_Plain)
_plain_batch = msgspec.json.Decoder(list[_Plain])
_members = msgspec.json.Decoder(dict[str, Raw])
_elements = msgspec.json.Decoder(list[Raw])
_value = msgspec.json.Decoder(str | int | bool | None)
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def message_of(attributes: Mapping[str, str], data: bytes, content_type: str | None) -> Message:
    """A message from CloudEvents attributes by name; what is missing is filled in.

    `topic` and `offset` are the server's and dropped. Raises `InvalidArgument` for a specversion that is not 1.0
    and a time that is not one; everything else is judged when the message is published.
    """
    if not attributes:
        return new_message(data, content_type=content_type)
    version = attributes.get("specversion", SPECVERSION)
    if version != SPECVERSION:
        raise InvalidArgument(f"must be {SPECVERSION!r}, not {version[:20]!r}", field="specversion")
    time = attributes.get("time")
    return new_message(
        data,
        id=attributes.get("id"),
        source=attributes.get("source"),
        type=attributes.get("type"),
        content_type=content_type,
        subject=attributes.get("subject"),
        time=None if time is None else parse_time(time, "time"),
        key=attributes.get("partitionkey"),
        attributes={name: value for name, value in attributes.items() if name not in _OWN_FIELDS},
    )


_OWN_FIELDS = frozenset({"specversion", "id", "source", "type", "subject", "time", "partitionkey", "topic", "offset"})
#: Of an event in JSON, beside extensions.
_OWN_MEMBERS = _OWN_FIELDS | {"datacontenttype", "data", "data_base64"}


def require(attributes: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise `InvalidArgument` for the first of `names` that is missing."""
    for name in names:
        if name not in attributes:
            raise InvalidArgument("is required in a CloudEvent", field=name)


def attributes_of(stored: StoredMessage) -> dict[str, str]:
    """The attributes of a stored message as strings, `specversion` among them; not `topic` and `offset`."""
    message = stored.message
    found = {
        "specversion": SPECVERSION,
        "id": message.id,
        "source": message.source,
        "type": message.type,
        "time": format_time(stored.time),
    }
    if message.subject is not None:
        found["subject"] = message.subject
    if message.key is not None:
        found["partitionkey"] = message.key
    return {**found, **message.attributes}


def decode_event(body: bytes, limits: Limits) -> Message:
    """A message from a structured event. Raises `InvalidArgument`, naming the member at fault.

    Of `limits`, only what bounds the time that this takes is judged here.
    """
    check_json(body, "body")
    return _decode_members(body, limits)


def decode_batch(body: bytes, limits: Limits) -> list[Message]:
    """Messages from a JSON batch. Raises `InvalidArgument`, naming index and member, or `TooLarge` for too many."""
    try:
        body.decode()  # msgspec.Raw lets invalid UTF-8 through
        events = _plain_batch.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return _decode_any_batch(body, limits)
    limits.check_count(len(events))
    messages: list[Message] = []
    for index, event in enumerate(events):
        try:
            messages.append(_message_of_plain(event, messages[-1] if messages else None))
        except TriviumError as error:
            raise error.within(f"messages[{index}]") from error
    return messages


def _decode_any_batch(body: bytes, limits: Limits) -> list[Message]:
    """As `decode_batch`, for events of any kind; what is wrong is told here."""
    check_json(body, "body")
    try:
        elements = _elements.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidArgument("must be a JSON array of CloudEvents", field="body") from error
    return decode_elements(elements, limits)


def decode_elements(elements: Sequence[Raw], limits: Limits, *, required: Iterable[str] = REQUIRED) -> list[Message]:
    """Messages from the elements of an array whose JSON was checked. Raises as `decode_batch`."""
    limits.check_count(len(elements))
    messages = []
    for index, element in enumerate(elements):
        try:
            messages.append(_decode_members(element, limits, required))
        except TriviumError as error:
            raise error.within(f"messages[{index}]") from error
    return messages


def encode_event(stored: StoredMessage) -> bytes:
    """A stored message as a structured event, with the extensions `topic`, `offset` and `partitionkey`."""
    return _encode(event_of(stored))


def event_of(stored: StoredMessage) -> Struct | dict[str, Any]:
    """What `encode_event` encodes, for an encoder of a document around it."""
    message = stored.message
    content = message.data
    data: Raw | str | UnsetType = UNSET
    encoded: bytes | UnsetType = UNSET
    if content:
        form = _form(message.content_type)
        if form is None:
            encoded = content
        else:
            data = form(content)
    offset = str(stored.offset)  # CloudEvents' Integer has 32 bits
    if message.attributes:
        members = _attribute_members(message, stored.time) | {"topic": stored.topic, "offset": offset}
        if data is not UNSET:
            members["data"] = data
        elif encoded is not UNSET:
            members["data_base64"] = encoded
        return members
    return _Stored(
        SPECVERSION,
        message.id,
        message.source,
        message.type,
        stored.time,
        message.content_type,
        UNSET if message.subject is None else message.subject,
        UNSET if message.key is None else message.key,
        stored.topic,
        offset,
        data,
        encoded,
    )


@lru_cache(_FORMS)
def _form(content_type: str) -> Callable[[bytes], Raw | str] | None:
    """How data of a type stands in `data`; None if it stands in `data_base64`."""
    if is_json(content_type):
        return Raw
    return bytes.decode if is_text(content_type) else None


def encode_batch(messages: Iterable[Message]) -> bytes:
    """What `decode_batch` reads; all data is in base64, which keeps every byte of it."""
    return _encode([{**_attribute_members(one, one.time), "data_base64": one.data} for one in messages])


def decode_stored(event: bytes | Raw) -> StoredMessage:
    """What `encode_event` made, byte for byte. Raises `ValueError` if it made no such thing."""
    members = _members.decode(event)
    data = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes = {name: _text.decode(value) for name, value in members.items()}
    content_type = attributes.pop("datacontenttype")
    if data is None:
        content = b"" if encoded is None else _from_base64(encoded)
    else:
        content = _verbatim(bytes(event), bytes(data)) if is_json(content_type) else _text.decode(data).encode()
    message = message_of(attributes, content, content_type)
    return StoredMessage(
        attributes["topic"], int(attributes["offset"]), parse_time(attributes["time"], "time"), message
    )


def _verbatim(event: bytes, data: bytes) -> bytes:
    """JSON data, which is the last member of a stored event, with the white space around it."""
    end = len(event.rstrip(_SPACE)) - 1
    begin = len(event[: len(event[:end].rstrip(_SPACE)) - len(data)].rstrip(_SPACE))
    return event[begin:end]


def _attribute_members(message: Message, time: datetime | None) -> dict[str, Any]:
    members: dict[str, Any] = {
        "specversion": SPECVERSION,
        "id": message.id,
        "source": message.source,
        "type": message.type,
    }
    if time is not None:
        members["time"] = time
    members["datacontenttype"] = message.content_type
    if message.subject is not None:
        members["subject"] = message.subject
    if message.key is not None:
        members["partitionkey"] = message.key
    members.update(message.attributes)
    return members


def parse_time(text: str, field: str) -> datetime:
    """A time of RFC 3339, in UTC, cut to microseconds."""
    try:
        return _in_utc(msgspec.convert(text, _Time), field)
    except msgspec.ValidationError as error:
        raise _not_a_time(field) from error


def _in_utc(time: datetime, field: str) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise _not_a_time(field) from error


def _not_a_time(field: str) -> InvalidArgument:
    return InvalidArgument("must be a time such as '2026-01-31T12:00:00.5Z' (RFC 3339)", field=field)


def format_time(time: datetime) -> str:
    """A time in UTC as RFC 3339 has it."""
    return f"{time.isoformat().removesuffix('+00:00')}Z"


def _decode_members(body: bytes | Raw, limits: Limits, required: Iterable[str] = REQUIRED) -> Message:
    try:
        event = _plain.decode(body)
    except (msgspec.ValidationError, RecursionError):  # it is of another kind, or wrong, which then says where
        return _decode_any(body, limits, required)
    return _message_of_plain(event)


def _message_of_plain(event: _Plain, before: Message | None = None) -> Message:
    """Its message. Names are mostly those of the message before it, and then kept in memory once."""
    content_type = JSON if event.datacontenttype is None else event.datacontenttype
    source, type_ = event.source, event.type
    if before is not None:
        source = before.source if source == before.source else source
        type_ = before.type if type_ == before.type else type_
        content_type = before.content_type if content_type == before.content_type else content_type
    return Message(
        id=event.id,
        source=source,
        type=type_,
        data=_content(event.data, event.data_base64, content_type),
        content_type=content_type,
        subject=event.subject,
        time=None if event.time is None else _in_utc(event.time, "time"),
        key=event.partitionkey,
        attributes=NO_ATTRIBUTES,
    )


def _decode_any(body: bytes | Raw, limits: Limits, required: Iterable[str]) -> Message:
    try:
        members = _members.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidArgument("must be a JSON object", field="body") from error
    except RecursionError as error:  # `check_json` went as deep from fewer calls
        raise InvalidArgument("nests too deeply to be read as JSON", field="body") from error
    if len(members) > limits.extensions + len(_OWN_MEMBERS):
        raise InvalidArgument(f"must be at most {limits.extensions}", field="attributes")
    data = members.pop("data", UNSET)
    encoded = members.pop("data_base64", UNSET)
    attributes = {}
    for name, raw in members.items():
        value = _attribute(name, raw)
        if value is not None:
            attributes[name] = value
    require(attributes, required)
    content_type = attributes.pop("datacontenttype", JSON)
    return message_of(attributes, _content(data, encoded, content_type), content_type)


def _content(data: Raw | UnsetType, encoded: Raw | UnsetType, content_type: str) -> bytes:
    """The data, from the member that holds it."""
    if encoded is UNSET:
        if data is UNSET:
            return b""
        return bytes(data) if is_json(content_type) else _from_text(data, content_type)
    if data is not UNSET:
        raise InvalidArgument("must not stand beside data_base64", field="data")
    return _from_base64(encoded)


def _attribute(name: str, raw: Raw) -> str | None:
    """The canonical string of an attribute (CloudEvents, type system); None for null, which means absent."""
    try:
        value = _value.decode(raw)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidArgument("must be a string, an integer or a boolean", field=name[:40]) from error
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None else str(value)


def _from_text(raw: Raw, content_type: str) -> bytes:
    try:
        return _text.decode(raw).encode()
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidArgument(f"must be a string under {content_type[:255]!r}", field="data") from error
    except UnicodeEncodeError as error:
        raise InvalidArgument("must not hold lone surrogates", field="data") from error


def _from_base64(raw: Raw) -> bytes:
    try:
        return base64.b64decode(_text.decode(raw), validate=True)
    except (msgspec.ValidationError, RecursionError, binascii.Error, ValueError) as error:
        raise InvalidArgument("must be a string in base64 (RFC 4648)", field="data_base64") from error
