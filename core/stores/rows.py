"""A message as a row of the table `messages`, and back."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from core.messages import NO_ATTRIBUTES, Message, StoredMessage
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
        attributes=_decode_attributes(attributes) if attributes else NO_ATTRIBUTES,
    )
    return StoredMessage(topic, place & _OFFSET_MASK, time, message)


@lru_cache(_TIMES)
def _time_of(micros: int) -> datetime:
    return _EPOCH + timedelta(0, 0, micros)


def to_micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND
