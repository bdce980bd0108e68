"""Messages as the frames of AMQP 0-9-1 carry them (2.3.5, 4.2), both ways."""

import struct
from typing import TypeAlias

from msgspec import Struct
from pika.spec import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, Basic


class Delivery(Struct, frozen=True, gc=False):
    """A message from a queue; `tag` means something on its own channel alone. `properties` as on the wire."""

    tag: int
    exchange: str | bytes
    routing_key: str | bytes
    properties: bytes
    body: bytes


#: A channel, what was delivered on it, and where that ends.
Found: TypeAlias = tuple[int, Delivery, int]

_FRAME = struct.Struct(">BHI")  # type, channel, size; the frame's content and an octet of its end follow
_METHOD = struct.Struct(">BHIIB")  # class and method, and the length of the consumer tag, which is left out
_TAG = struct.Struct(">QxB")  # after the consumer tag; the flag of a redelivery, and the length of the exchange's name
_CONTENT = struct.Struct(">BHI4xQ")  # class and weight are left out, the size of the body
_PROPERTIES = _CONTENT.size
_LEAST_CONTENT = _CONTENT.size - _FRAME.size
_AROUND = _FRAME.size + 1
_END = bytes([FRAME_END])
_PUBLISH = struct.Struct(">BHIIxxB")  # class and method, a reserved short, and the length of the exchange's name
_HEADER = struct.Struct(">BHIHxxQ")  # class, weight, and the size of the body
#: AMQP 0-9-1, 4.2.5.3: a short string.
_LONGEST_NAME = 255


def delivery(buffer: bytes, at: int) -> Found | None:
    """The delivery that begins at `at`.

    None for everything else: other frames, one that is not there whole or not well formed, and a body in several frames
    or with the frames of another channel between.
    """
    end = len(buffer)
    if at + _METHOD.size > end:
        return None
    kind, channel, size, method, length = _METHOD.unpack_from(buffer, at)
    content = at + _AROUND + size
    if method != Basic.Deliver.INDEX or kind != FRAME_METHOD or content + _CONTENT.size > end:
        return None
    names = _names(buffer, at + _METHOD.size + length, content - 1)
    kind, same, size, body_size = _CONTENT.unpack_from(buffer, content)
    body = content + _AROUND + size
    after = body + _AROUND + body_size if body_size else body
    if names is None or kind != FRAME_HEADER or same != channel or size < _LEAST_CONTENT or after > end:
        return None
    if body_size and _FRAME.unpack_from(buffer, body) != (FRAME_BODY, channel, body_size):
        return None
    if not buffer[content - 1] == buffer[body - 1] == buffer[after - 1] == FRAME_END:
        return None
    properties = buffer[content + _PROPERTIES : body - 1]
    return channel, Delivery(*names, properties, buffer[body + _FRAME.size : after - 1]), after


def _names(buffer: bytes, at: int, end: int) -> tuple[int, str | bytes, str | bytes] | None:
    """The delivery tag, exchange and routing key, which end at `end`."""
    if at + _TAG.size >= end:
        return None
    tag, length = _TAG.unpack_from(buffer, at)
    exchange = at + _TAG.size
    key = exchange + length
    if key >= end or key + 1 + buffer[key] != end:
        return None
    return tag, _text(buffer[exchange:key]), _text(buffer[key + 1 : end])


def _text(name: bytes) -> str | bytes:
    """As pika has names: bytes where they are not UTF-8."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


def publication(
    channel: int, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes, *, mandatory: bool, most: int
) -> bytes:
    """The frames of a Basic.Publish, of at most `most` bytes each; `ValueError` for a name that is too long."""
    if len(exchange) > _LONGEST_NAME or len(routing_key) > _LONGEST_NAME:
        raise ValueError(f"names must be at most {_LONGEST_NAME} bytes")
    size = _PUBLISH.size - _FRAME.size + len(exchange) + 1 + len(routing_key) + 1
    pieces = [
        _PUBLISH.pack(FRAME_METHOD, channel, size, Basic.Publish.INDEX, len(exchange)),
        exchange,
        b"%c%b%c" % (len(routing_key), routing_key, mandatory),
        _END,
        _HEADER.pack(FRAME_HEADER, channel, _LEAST_CONTENT + len(properties), Basic.INDEX, len(body)),
        properties,
        _END,
    ]
    room = most - _AROUND
    for begin in range(0, len(body), room):
        piece = body[begin : begin + room]
        pieces += (_FRAME.pack(FRAME_BODY, channel, len(piece)), piece, _END)
    return b"".join(pieces)
