"""Properties on the wire, against pika's own coding and against garbage."""

import struct
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import BasicProperties

from core.errors import InvalidArgument
from transports.amqp import properties
from transports.amqp.properties import Unfit

shortstr = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
plain = st.one_of(st.text(st.characters(codec="utf-8")), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.none())
times = st.integers(0, 250_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def encoded(**fields: Any) -> bytes:
    return b"".join(BasicProperties(**fields).encode())


def header(name: bytes, value: bytes) -> bytes:
    """Properties with one header of any bytes."""
    entry = bytes([len(name)]) + name + value
    return b"\x20\x00" + struct.pack(">I", len(entry)) + entry


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("content_type", "content_encoding", "message_id", "type", "app_id"), shortstr),
            **dict.fromkeys(("correlation_id", "reply_to", "expiration", "user_id", "cluster_id"), shortstr),
            **dict.fromkeys(("priority", "delivery_mode"), st.integers(0, 255)),
            "timestamp": st.integers(0, 2**64 - 1),
            "headers": st.dictionaries(shortstr, st.one_of(plain, times)),
        },
    )
)
def test_what_pika_encodes_is_read(fields: dict[str, Any]) -> None:
    """Every property and every type of header that an attribute can have."""
    found = properties.decode(encoded(**fields))
    for name in ("content_type", "content_encoding", "message_id", "type", "timestamp"):
        assert getattr(found, name) == fields.get(name)
    for name in ("correlation_id", "reply_to"):
        assert getattr(found, name) == (fields[name].encode() if name in fields else None)
    assert found.headers == fields.get("headers", {})


@given(st.dictionaries(shortstr, st.one_of(st.text(st.characters(codec="utf-8")), st.integers(0, 2**53 - 1))), shortstr)
def test_pika_reads_what_is_encoded(headers: dict[str, str | int], message_id: str) -> None:
    """Our encoding is what any client decodes."""
    raw = properties.encode({"message_id": message_id.encode()}, headers)
    found = BasicProperties().decode(raw)
    assert found.message_id == message_id
    assert found.headers == headers


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff\xff")
@example(b"\x20\x00\xff\xff\xff\xff")
def test_garbage_is_invalid_argument(raw: bytes) -> None:
    """Whatever the bytes are, they are read or refused."""
    with suppress(InvalidArgument):
        properties.decode(raw)
    assert BasicProperties().decode(properties.republished(raw, {"x": "y"}, 10)).headers["x"] == "y"


@given(st.binary(max_size=100), st.integers(0, 99), st.integers(0, 255))
def test_flipped_bytes_are_read_or_refused(body: bytes, at: int, byte: int) -> None:
    """Damage to good properties raises nothing else either."""
    raw = bytearray(encoded(content_type="text/plain", headers={"ce-id": "1", "a": 5, "t": body}, message_id="m"))
    raw[at % len(raw)] = byte
    with suppress(InvalidArgument):
        properties.decode(bytes(raw))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"T" + struct.pack(">Q", 1_764_000_000_000_0), "seconds since 1970"),
        (b"T" + b"\xff" * 8, "seconds since 1970"),
        (b"d" + struct.pack(">d", float("nan")), "must be a number"),
        (b"f" + struct.pack(">f", float("inf")), "must be a number"),
        (b"\x01", "unknown type"),
        (b"S" + struct.pack(">I", 2**31) + b"x", "end too early"),
    ],
)
def test_values_that_break_pika_are_refused(value: bytes, text: str) -> None:
    """Each names the header, or says that the headers are cut off."""
    with pytest.raises(InvalidArgument, match=text) as caught:
        properties.decode(header(b"when", value))
    assert caught.value.field in ("headers['when']", "headers")


@pytest.mark.parametrize(
    ("value", "unfit"),
    [
        (b"d" + struct.pack(">d", 1.5), Unfit.FLOAT),
        (b"D\x01" + struct.pack(">i", 15), Unfit.DECIMAL),
        (b"x" + struct.pack(">I", 2) + b"ab", Unfit.BYTES),
        (b"S" + struct.pack(">I", 1) + b"\xff", Unfit.NOT_UTF8),
        (b"A" + struct.pack(">I", 9) + b"T" + b"\xff" * 8, Unfit.ARRAY),
        (b"F" + struct.pack(">I", 1) + b"\xff", Unfit.TABLE),
    ],
)
def test_values_that_no_attribute_has_are_told(value: bytes, unfit: Unfit) -> None:
    """They are no fault where nobody asks for them; what is in tables and arrays is not looked at."""
    assert properties.decode(header(b"a", value)).headers == {"a": unfit}


def test_a_dead_letter_keeps_its_properties() -> None:
    """Floats, decimals and tables keep their bytes; ours replace headers of the same names."""
    headers = {"f": Decimal("1.5"), "t": {"x": [1, {"y": None}]}, "code": "old", "ce-id": "é"}
    fields: dict[str, Any] = {"content_type": "a/b", "correlation_id": "c", "message_id": "m", "timestamp": 7}
    raw = properties.republished(encoded(**fields, headers=headers), {"code": "new"}, 1000)
    found = BasicProperties().decode(raw)
    assert found.headers == {**headers, "code": "new"}
    assert {name: getattr(found, name) for name in fields} == fields


def test_what_would_lose_a_dead_letter_is_left_out() -> None:
    """`expiration` drops it unread, and RabbitMQ refuses a `user_id` that is not the connection's."""
    raw = encoded(content_type="a/b", expiration="1", user_id="somebody", app_id="app")
    found = BasicProperties().decode(properties.republished(raw, {"code": "x"}, 1000))
    assert (found.content_type, found.expiration, found.user_id, found.app_id) == ("a/b", None, None, "app")


def test_properties_too_large_for_a_frame_are_left_out() -> None:
    """RabbitMQ would end the connection, at each attempt."""
    raw = encoded(headers={"big": "x" * 900})
    assert BasicProperties().decode(properties.republished(raw, {"code": "x" * 100}, 1000)).headers == {
        "code": "x" * 100
    }
