"""Messages from and to frames, as pika reads and writes them."""

from typing import Any

import pytest
from pika import BasicProperties, frame
from pika.spec import Basic

from transports.amqp.frames import Delivery, delivery, publication

PROPERTIES = BasicProperties(content_type="text/plain", headers={"ce-id": "1"})
RAW = b"".join(PROPERTIES.encode())


def delivered(body: bytes = b"body", *, channel: int = 3, routing_key: str = "orders") -> list[bytes]:
    """A delivery as a broker sends it."""
    method = Basic.Deliver("ctag", 7, True, "exchange", routing_key)
    found = [frame.Method(channel, method).marshal(), frame.Header(channel, len(body), PROPERTIES).marshal()]
    return [*found, frame.Body(channel, body).marshal()] if body else found


@pytest.mark.parametrize("body", [b"body", b"", b"\xce" * 1000])
def test_a_whole_delivery_is_read(body: bytes) -> None:
    """What comes before and after it does not matter."""
    whole = b"".join(delivered(body, routing_key="ördér"))
    expected = Delivery(7, "exchange", "ördér", RAW, body)
    assert delivery(b"before" + whole + b"after", 6) == (3, expected, 6 + len(whole))


def test_a_name_that_is_not_utf8_is_bytes() -> None:
    """As pika has it."""
    found = delivery(b"".join(delivered()).replace(b"orders", b"\xff\xfeders"), 0)
    assert found is not None
    assert found[1].routing_key == b"\xff\xfeders"


def test_a_delivery_that_is_not_there_whole_is_left() -> None:
    """However few of its bytes are missing."""
    whole = b"".join(delivered())
    assert all(delivery(whole[:size], 0) is None for size in range(len(whole)))


def test_other_frames_are_left() -> None:
    """Those that pika reads, a body in two frames, and a frame of another channel within a delivery."""
    method, header, body = delivered()
    half = frame.Body(3, b"bo").marshal() + frame.Body(3, b"dy").marshal()
    heartbeat = frame.Heartbeat().marshal()
    for other in (
        heartbeat * 10,
        frame.Method(3, Basic.Ack(1, True)).marshal() + method + header + body,
        method + header + half,
        method + heartbeat + header + body,
        method + header + heartbeat + body,
        method + delivered(channel=4)[1] + body,
    ):
        assert delivery(other + b"after" * 10, 0) is None


def test_no_byte_can_fail_it() -> None:
    """With any byte of the frames another, the delivery is read, or left to pika."""
    whole = b"".join(delivered())
    for at in range(len(whole)):
        for value in range(256):
            found = delivery(whole[:at] + bytes([value]) + whole[at + 1 :], 0)
            assert found is None or found[2] <= len(whole)


@pytest.mark.parametrize("body", [b"", b"body", b"x" * 92, b"x" * 93, b"x" * 1000])
@pytest.mark.parametrize("mandatory", [True, False])
def test_a_publication_is_what_pika_reads(body: bytes, mandatory: bool) -> None:
    """A method, the properties, and as many frames as the body needs; none is larger than agreed."""
    rest = publication(3, b"exchange", b"orders", RAW, body, mandatory=mandatory, most=100)
    found: list[Any] = []
    while rest:
        size, one = frame.decode_frame(rest)
        assert 0 < size <= 100
        found.append(one)
        rest = rest[size:]
    method, header, *pieces = found
    assert {one.channel_number for one in found} == {3}
    assert (method.method.exchange, method.method.routing_key, method.method.mandatory) == (
        "exchange",
        "orders",
        mandatory,
    )
    assert (header.body_size, header.properties) == (len(body), PROPERTIES)
    assert b"".join(piece.fragment for piece in pieces) == body


def test_a_name_that_is_too_long_is_refused() -> None:
    """No frame could hold it."""
    with pytest.raises(ValueError, match="255"):
        publication(3, b"", b"k" * 256, RAW, b"", mandatory=False, most=100)
