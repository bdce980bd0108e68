"""A message as a row of the table `messages`, and back."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from core.messages import Message, StoredMessage
from core.stores.schema import OFFSET_BITS

Row: TypeAlias = tuple[Any, ...]

COLUMNS = "position, topic, id, source, type, time, time_given, content_type, subject, key, attributes, data"
WIDTH = COLUMNS.count(",") + 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OFFSET_MASK = (1 << OFFSET_BITS) - 1

#: Kept: all messages of a commit that brought no time share it.
_TIMES = 256

_encode_attributes = msgspec.json.Encoder().encode
_decode_attributes = msgspec.json.Decoder(dict[str, str]).decode


def position(topic_number: int, offset: int) -> int:
    """The row of an offset. Offsets beyond the mask are no row's: they stay within their topic's range."""
    return topic_number << OFFSET_BITS | min(offset, _OFFSET_MASK)


def to_row(topic_number: int, offset: int, time: datetime, message: Message) -> Row:
    """`time` is the stored message's."""
    return (
        topic_number << OFFSET_BITS | offset,
        topic_number,
        message.id,
        message.source,
        message.type,
        (time - _EPOCH) // _MICROSECOND,
        message.time is not None,
        message.content_type,
        message.subject,
        message.key,
        _attributes_to_text(message.attributes),
        message.data,
    )


def from_row(topic: str, row: Row) -> StoredMessage:
    """The message of a row of `COLUMNS`."""
    place, _, id_, source, type_, micros, time_given, content_type, subject, key, attributes, data = row
    time = _time_of(micros)
    message = Message(
        id=id_,
        source=source,
        type=type_,
        data=data,
        content_type=content_type,
        subject=subject,
        time=time if time_given else None,
        key=key,
        attributes=_decode_attributes(attributes) if attributes else {},
    )
    return StoredMessage(topic, place & _OFFSET_MASK, time, message)


@lru_cache(_TIMES)
def _time_of(micros: int) -> datetime:
    return _EPOCH + timedelta(0, 0, micros)


def _attributes_to_text(attributes: Mapping[str, str]) -> str | None:
    return _encode_attributes(attributes).decode() if attributes else None
