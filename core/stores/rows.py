"""A message as a row of the table `messages`, and back."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from core.messages import NO_ATTRIBUTES, Message, StoredMessage, weight
from core.stores.schema import OFFSET_BITS

Row: TypeAlias = tuple[Any, ...]

COLUMNS = "position, topic, id, source, type, time, time_given, content_type, subject, key, attributes, data"
#: What is read of a row.
STORED = "position, id, source, type, content_type, time, time_given, subject, key, attributes, data"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OFFSET_MASK = (1 << OFFSET_BITS) - 1

#: Kept: all messages of a commit that brought no time share it.
_TIMES = 256
#: Kept: publishers use few.
_KINDS = 1024

_encode_attributes = msgspec.json.Encoder().encode
_decode_attributes = msgspec.json.Decoder(dict[str, str]).decode


def position(topic_number: int, offset: int) -> int:
    """The row of an offset. Offsets beyond the mask are no row's: they stay within their topic's range."""
    return topic_number << OFFSET_BITS | min(offset, _OFFSET_MASK)


def append_to(
    values: list[object], topic_number: int, first: int, now_micros: int, messages: Iterable[Message]
) -> None:
    """Append the rows of messages at the offsets from `first` on; those that brought no time get `now_micros`."""
    for place, message in enumerate(messages, topic_number << OFFSET_BITS | first):
        time = message.time
        values += (
            place,
            topic_number,
            message.id,
            message.source,
            message.type,
            now_micros if time is None else to_micros(time),
            time is not None,
            message.content_type,
            message.subject,
            message.key,
            _encode_attributes(message.attributes).decode() if message.attributes else None,
            message.data,
        )


def page_of(topic: str, rows: Iterable[Row], max_bytes: int) -> tuple[StoredMessage, ...]:
    """The messages of rows of `STORED`: at least one if there is any, else as many as weigh `max_bytes` together.

    Nearly all of the work of catching up is done once for each row here and where messages are encoded. Most rows
    name the source, type and content type of the row before, and have nothing that is optional.
    """
    found: list[StoredMessage] = []
    size = 0
    source, type_, content_type, names = _kind("", "", "")
    micros, time = 0, _EPOCH
    for (
        place,
        id_,
        its_source,
        its_type,
        its_content_type,
        its_micros,
        has_time,
        subject,
        key,
        attributes,
        data,
    ) in rows:
        if its_source != source or its_type != type_ or its_content_type != content_type:
            source, type_, content_type, names = _kind(its_source, its_type, its_content_type)
        if its_micros != micros:
            micros, time = its_micros, _time_of(its_micros)
        message = Message(
            id=id_,
            source=source,
            type=type_,
            data=data,
            content_type=content_type,
            subject=subject,
            time=time if has_time else None,
            key=key,
            attributes=_decode_attributes(attributes) if attributes else NO_ATTRIBUTES,
        )
        if subject is None and key is None and attributes is None:
            size += names + 4 * len(id_) + len(data)  # its weight
        else:
            size += weight(message)
        if size > max_bytes and found:
            break
        found.append(StoredMessage(topic, place & _OFFSET_MASK, time, message))
    return tuple(found)


@lru_cache(_KINDS)
def _kind(source: str, type_: str, content_type: str) -> tuple[str, str, str, int]:
    """What many messages share, in memory once, and its part of their weight."""
    return (
        source,
        type_,
        content_type,
        weight(Message(id="", source=source, type=type_, data=b"", content_type=content_type)),
    )


@lru_cache(_TIMES)
def _time_of(micros: int) -> datetime:
    return _EPOCH + timedelta(0, 0, micros)


def to_micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND
