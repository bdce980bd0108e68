"""Stored messages in protobuf, by hand.

The generated classes make objects of every message and its time, only to write them down. The format:
https://protobuf.dev/programming-guides/encoding. Readers take fields in any order, so what most messages of a topic
share comes first, and is made once. Tests hold this against the generated classes.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from core.messages import Message, StoredMessage
from proto.trivium.v1 import messages_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Wire types.
_VARINT, _BYTES = 0, 2
_ONE_BYTE = [bytes((value,)) for value in range(0x80)]
_FIRST_BYTE = [bytes((value | 0x80,)) for value in range(0x80)]
#: Kept: kinds of messages; times, which all messages of a commit share that brought none.
_HEADS, _TIMES = 256, 256
#: Fields shorter than this have their beginnings ready.
_SHORT = 1024


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


def encode_run(messages: Iterable[StoredMessage]) -> bytes:
    """Messages of one topic as all those of an answer.

    Most have the names and the time of the message before, and an offset that differs in its lowest seven bits: what
    is made of these is made anew where they change. Messages that were read together share the object that is their
    time.
    """
    pieces: list[bytes] = []
    source = type_ = content_type = time = None
    shared = high_bytes = b""
    high, low_bytes = -1, _ONE_BYTE
    for stored in messages:
        message = stored.message
        if (
            message.source != source
            or message.type != type_
            or message.content_type != content_type
            or stored.time is not time
        ):
            source, type_, content_type, time = message.source, message.type, message.content_type, stored.time
            shared = _head(stored.topic, source, type_, content_type) + _time(time) + _OFFSET
        offset = stored.offset
        if offset >> 7 != high:
            high = offset >> 7
            low_bytes, high_bytes = (_FIRST_BYTE, varint(high)) if high else (_ONE_BYTE, b"")
        id_ = message.id.encode()
        data = message.data
        has_more = message.subject is not None or message.key is not None or message.attributes
        body = b"".join(
            (
                shared,
                low_bytes[offset & 0x7F],
                high_bytes,
                _ID_OF[len(id_)],
                id_,
                _more(message) if has_more else b"",
                _DATA_OF[len(data)],
                data,
            )
        )
        pieces += (_MESSAGE_OF[len(body)], body)
    return b"".join(pieces)


def encode_next(cursor: int) -> bytes:
    """The cursor of an answer."""
    return _NEXT + varint(cursor) if cursor else b""


def varint(value: int) -> bytes:
    """`value` from 0 on in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    return _FIRST_BYTE[value & 0x7F] + varint(value >> 7)


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


def _more(message: Message) -> bytes:
    """What a message may lack."""
    found = [
        _field(_ATTRIBUTES, _text(_NAME, name) + _text(_VALUE, value)) for name, value in message.attributes.items()
    ]
    if message.subject is not None:
        found.append(_text(_SUBJECT, message.subject))
    if message.key is not None:
        found.append(_text(_KEY, message.key))
    return b"".join(found)


def _text(tag: bytes, text: str) -> bytes:
    return _field(tag, text.encode())


def _field(tag: bytes, value: bytes) -> bytes:
    return tag + varint(len(value)) + value


class _Beginnings(dict[int, bytes]):
    """What stands before the bytes of a field, by their number."""

    def __init__(self, tag: bytes) -> None:
        super().__init__((length, tag + varint(length)) for length in range(_SHORT))
        self._tag = tag

    def __missing__(self, length: int) -> bytes:
        return self._tag + varint(length)


_ID_OF, _DATA_OF, _MESSAGE_OF = _Beginnings(_ID), _Beginnings(_DATA), _Beginnings(_MESSAGE)
