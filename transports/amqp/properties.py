"""The properties of an AMQP message, to and from the bytes on the wire (AMQP 0-9-1, 4.2.5 and 4.2.6.1).

pika's own coding loses what it can't express and fails at what it does not expect; see `wire`.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from core.errors import InvalidArgument


class Unfit(StrEnum):
    """Header values that no attribute can have, by their names for people."""

    FLOAT = "a float"
    DECIMAL = "a decimal"
    BYTES = "a byte array"
    NOT_UTF8 = "text that is not UTF-8"
    ARRAY = "an array"
    TABLE = "a table"


Header: TypeAlias = str | int | bool | datetime | Unfit | None


class Properties(Struct, frozen=True, kw_only=True, gc=False):
    """Those that Trivium reads. An empty text counts as absent, since some clients send every property."""

    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Header]
    correlation_id: bytes | None
    reply_to: bytes | None
    message_id: str | None
    timestamp: int | None  # seconds, if the producer keeps to the specification
    type: str | None
    user_id: str | None = None  # RabbitMQ lets nobody claim another name than the one they logged in with


#: In the order of the wire: flag, name, and size (0: a length byte and text, -1: a table).
_FIELDS = (
    (1 << 15, "content_type", 0),
    (1 << 14, "content_encoding", 0),
    (1 << 13, "headers", -1),
    (1 << 12, "delivery_mode", 1),
    (1 << 11, "priority", 1),
    (1 << 10, "correlation_id", 0),
    (1 << 9, "reply_to", 0),
    (1 << 8, "expiration", 0),
    (1 << 7, "message_id", 0),
    (1 << 6, "timestamp", 8),
    (1 << 5, "type", 0),
    (1 << 4, "user_id", 0),
    (1 << 3, "app_id", 0),
    (1 << 2, "cluster_id", 0),
)
_LENGTH = struct.Struct(">I")
#: Sizes of header values by type, as RabbitMQ and its clients have them; those of a length of their own are not here.
_SIZES = {
    kind[0]: size
    for size, kinds in ((0, b"V"), (1, b"tbB"), (2, b"sUu"), (4, b"Iif"), (5, b"D"), (8, b"lLdT"))
    for kind in (kinds[index : index + 1] for index in range(len(kinds)))
}
_LONG = {kind[0] for kind in (b"S", b"x", b"A", b"F")}
_NUMBERS = {
    kind[0]: struct.Struct(">" + code)
    for kind, code in (
        (b"b", "b"), (b"B", "B"), (b"s", "h"), (b"U", "h"), (b"u", "H"), (b"I", "i"), (b"i", "I"), (b"l", "q"),
        (b"L", "q"), (b"f", "f"), (b"d", "d"), (b"T", "Q"),
    )
}  # fmt: skip
_UNFIT = {b"D"[0]: Unfit.DECIMAL, b"x"[0]: Unfit.BYTES, b"A"[0]: Unfit.ARRAY, b"F"[0]: Unfit.TABLE}


def decode(raw: bytes) -> Properties:
    """Raises `InvalidArgument`, naming the property or the header, for whatever can't be read; nothing else.

    What is inside a table or an array is not looked at.
    """
    fields = _split(raw)
    timestamp = fields.get("timestamp")
    return Properties(
        content_type=_text(fields, "content_type"),
        content_encoding=_text(fields, "content_encoding"),
        headers=_headers(fields["headers"]) if "headers" in fields else {},
        correlation_id=fields.get("correlation_id") or None,
        reply_to=fields.get("reply_to") or None,
        message_id=_text(fields, "message_id"),
        timestamp=None if timestamp is None else int.from_bytes(timestamp),
        type=_text(fields, "type"),
        user_id=_text(fields, "user_id"),
    )


def encode(fields: Mapping[str, bytes], headers: Mapping[str, str | int]) -> bytes:
    """Properties from the bytes of their values, by name, and headers."""
    return join({**fields, "headers": table(headers)})


def table(headers: Mapping[str, str | int]) -> bytes:
    """Headers as the value of the property of that name."""
    return b"".join(_header(name, value) for name, value in headers.items())


def republished(raw: bytes, headers: Mapping[str, str], most: int) -> bytes:
    """The properties of a message that is sent on by us, every byte of them kept except for what would lose it.

    `headers` replace those of the same names. `expiration` would make it vanish, `user_id` be refused for not being
    ours. Properties that can't be read, or would pass `most` bytes (a frame), are left out but for `headers`.
    """
    try:
        fields = _split(raw)
        names = {name.encode() for name in headers}
        kept = [entry for name, entry in _entries(fields.get("headers", b"")) if name not in names]
    except InvalidArgument:
        return encode({}, headers)
    fields = {name: value for name, value in fields.items() if name not in ("expiration", "user_id")}
    fields["headers"] = b"".join([*kept, table(headers)])
    joined = join(fields)
    return joined if len(joined) <= most else encode({}, headers)


def _split(raw: bytes) -> dict[str, bytes]:
    """The bytes of each property's value, without its length."""
    found = {}
    try:
        flags = raw[0] << 8 | raw[1]
        at = 2
        for flag, name, size in _FIELDS:
            if not flags & flag:
                continue
            if size == 0:
                size = raw[at]
                at += 1
            elif size < 0:
                (size,) = _LENGTH.unpack_from(raw, at)
                at += 4
            found[name] = raw[at : at + size]
            at += size
    except (IndexError, struct.error) as error:
        raise InvalidArgument("end too early", field="properties") from error
    if at != len(raw) or flags & 3:
        raise InvalidArgument("are malformed", field="properties")
    return found


def join(fields: Mapping[str, bytes]) -> bytes:
    """Properties from the bytes of their values, by name."""
    flags = 0
    pieces = [b""]
    for flag, name, size in _FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        flags |= flag
        if size == 0:
            pieces.append(len(value).to_bytes())
        elif size < 0:
            pieces.append(_LENGTH.pack(len(value)))
        pieces.append(value)
    pieces[0] = flags.to_bytes(2)
    return b"".join(pieces)


def flags(*names: str) -> bytes:
    """What properties begin with that are exactly those."""
    return sum(flag for flag, name, _ in _FIELDS if name in names).to_bytes(2)


def _header(name: str, value: str | int) -> bytes:
    key = name.encode()
    if isinstance(value, int):
        return b"%c%bl%b" % (len(key), key, value.to_bytes(8, signed=True))
    text = value.encode()
    return b"%c%bS%b%b" % (len(key), key, _LENGTH.pack(len(text)), text)


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The name of each header, and all of its bytes."""
    for name, begin, _, end in _scan(table):
        yield name, table[begin:end]


def _headers(table: bytes) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    for key, _, begin, end in _scan(table):
        try:
            name = key.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("must be UTF-8", field="a header's name") from error
        headers[name] = _value(name, table, begin, end)
    return headers


def _scan(table: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Of each header the name, where it begins, where its value begins (at the type), and where it ends."""
    at = 0
    size = len(table)
    try:
        while at < size:
            begin = at
            at += 1 + table[at]
            name = table[begin + 1 : at]
            value = at
            kind = table[at]
            fixed = _SIZES.get(kind)
            if fixed is not None:
                at += 1 + fixed
            elif kind in _LONG:
                at += 5 + _LENGTH.unpack_from(table, at + 1)[0]
            else:
                raise InvalidArgument(f"is of the unknown type {kind}", field=_header_field(name))
            if at > size:
                break
            yield name, begin, value, at
    except (IndexError, struct.error) as error:
        raise InvalidArgument("end too early", field="headers") from error
    if at != size:
        raise InvalidArgument("end too early", field="headers")


def _value(name: str, table: bytes, at: int, end: int) -> Header:
    kind = table[at]
    if kind == 0x53:  # S, which nearly all are
        try:
            return table[at + 5 : end].decode()
        except UnicodeDecodeError:
            return Unfit.NOT_UTF8
    if kind in _UNFIT:
        return _UNFIT[kind]
    if kind == 0x74:  # t
        return table[at + 1] != 0
    if kind == 0x56:  # V
        return None
    (number,) = _NUMBERS[kind].unpack_from(table, at + 1)
    if kind == 0x54:  # T
        return time_of(number, _header_field(name.encode()))
    if isinstance(number, float):
        if not math.isfinite(number):
            raise InvalidArgument(f"must be a number, not {number}", field=_header_field(name.encode()))
        return Unfit.FLOAT
    return int(number)


def time_of(seconds: int, field: str) -> datetime:
    """The time of an AMQP timestamp; `InvalidArgument` if it is past the year 9999, as one in milliseconds is."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidArgument(f"must be a time in seconds since 1970, not {seconds}", field=field) from error


def _header_field(name: bytes) -> str:
    return f"headers[{name[:40].decode(errors='replace')!r}]"


def _text(fields: Mapping[str, bytes], name: str) -> str | None:
    value = fields.get(name)
    if not value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("must be UTF-8", field=name) from error
