"""Stored messages in protobuf, by hand.

The generated classes make objects of every message and its time, only to write them down. The format:
https://protobuf.dev/programming-guides/encoding. Readers take fields in any order, so what most messages of a topic
share comes first, and is made once. Tests hold this against the generated classes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from core.messages import StoredMessage
from proto.trivium.v1 import messages_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Wire types.
_VARINT, _BYTES = 0, 2
_ONE_BYTE = [bytes((value,)) for value in range(0x80)]
#: Kept: kinds of messages; times, which all messages of a commit share that brought none; lengths of fields.
_HEADS, _TIMES, _LENGTHS = 256, 256, 1024


def _tag(number: int, wire_type: int) -> bytes:
    return bytes((number << 3 | wire_type,))


_TOPIC = _tag(pb.Message.TOPIC_FIELD_NUMBER, _BYTES)
_OFFSET = _tag(pb.Message.OFFSET_FIELD_NUMBER, _VARINT)
_ID = _tag(pb.Message.ID_FIELD_NUMBER, _BYTES)
_SOURCE = _tag(pb.Message.SOURCE_FIELD_NUMBER, _BYTES)
_TYPE = _tag(pb.Message.TYPE_FIELD_NUMBER, _BYTES)
_SUBJECT = _tag(pb.Message.SUBJECT_FIELD_NUMBER, _BYTES)
_TIME = _tag(pb.Message.TIME_FIELD_NUMBER, _BYTES)
_CONTENT_TYPE = _tag(pb.Message.CONTENT_TYPE_FIELD_NUMBER, _BYTES)
_DATA = _tag(pb.Message.DATA_FIELD_NUMBER, _BYTES)
_KEY = _tag(pb.Message.KEY_FIELD_NUMBER, _BYTES)
_ATTRIBUTES = _tag(pb.Message.ATTRIBUTES_FIELD_NUMBER, _BYTES)
#: Of google.protobuf.Timestamp, and of an entry of a map.
_SECONDS, _NANOS = _tag(1, _VARINT), _tag(2, _VARINT)
_NAME, _VALUE = _tag(1, _BYTES), _tag(2, _BYTES)
#: Every answer that holds stored messages has them in this field.
_MESSAGE = _tag(pb.FollowResponse.MESSAGES_FIELD_NUMBER, _BYTES)
_NEXT = _tag(pb.FollowResponse.NEXT_FIELD_NUMBER, _VARINT)


def encode_stored(stored: StoredMessage) -> bytes:
    """The message as the only one of an answer."""
    message = stored.message
    id_ = message.id.encode()
    data = message.data
    rest = _attributes(message.attributes) if message.attributes else b""
    if message.subject is not None:
        rest += _text(_SUBJECT, message.subject)
    if message.key is not None:
        rest += _text(_KEY, message.key)
    body = b"".join(
        (
            _head(stored.topic, message.source, message.type, message.content_type),
            _OFFSET,
            varint(stored.offset),
            _begin(_ID, len(id_)),
            id_,
            _time(stored.time),
            rest,
            _begin(_DATA, len(data)),
            data,
        )
    )
    return _begin(_MESSAGE, len(body)) + body


def encode_next(cursor: int) -> bytes:
    """The cursor of an answer."""
    return _NEXT + varint(cursor) if cursor else b""


def varint(value: int) -> bytes:
    """`value` from 0 on in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x20_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80)) + varint(value >> 21)


@lru_cache(_HEADS)
def _head(topic: str, source: str, type_: str, content_type: str) -> bytes:
    return b"".join(
        (_text(_TOPIC, topic), _text(_SOURCE, source), _text(_TYPE, type_), _text(_CONTENT_TYPE, content_type))
    )


@lru_cache(_TIMES)
def _time(time: datetime) -> bytes:
    since = time - _EPOCH
    seconds, nanos = since.days * 86_400 + since.seconds, since.microseconds * 1000
    # a negative number is its two's complement of 64 bits
    return _field(_TIME, _SECONDS + varint(seconds & 0xFFFF_FFFF_FFFF_FFFF) + _NANOS + varint(nanos))


def _attributes(attributes: Mapping[str, str]) -> bytes:
    return b"".join(
        _field(_ATTRIBUTES, _text(_NAME, name) + _text(_VALUE, value)) for name, value in attributes.items()
    )


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode())


def _field(tag: bytes, value: bytes) -> bytes:
    return _begin(tag, len(value)) + value


@lru_cache(_LENGTHS)
def _begin(tag: bytes, length: int) -> bytes:
    """What stands before the bytes of a field."""
    return tag + varint(length)
