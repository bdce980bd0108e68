"""How followers on bare sockets find out that they have everything."""

import socket
from collections.abc import Iterator

import pytest

from bench.clients.catch_up import ending
from bench.clients.fan_out import Grpc, Sse
from proto.trivium.v1 import messages_pb2 as pb


@pytest.fixture
def port() -> Iterator[int]:
    """Of a socket that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def answer(cursor: int) -> bytes:
    message = pb.Message(topic="t", offset=cursor, data=b"m" * 100)
    return pb.FollowResponse(messages=[message], next=cursor).SerializeToString()


@pytest.mark.parametrize("cursor", [1, 127, 128, 16_383, 16_384, 1_000_000])
def test_ending_is_how_an_answer_with_that_cursor_ends(cursor: int) -> None:
    """Whatever the length of its varint."""
    assert answer(cursor).endswith(ending(cursor))
    assert not answer(cursor - 1).endswith(ending(cursor))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_sse_follower_sees_the_last_id_wherever_the_stream_is_cut(port: int, line_end: bytes) -> None:
    """Chunks and reads cut frames anywhere; 12 is not 120."""
    frames = b"HTTP/1.1 200 \r\n\r\nid: 0\n\n" + b"id: %d" % 120 + line_end + b"data: x\n\nid: 12" + line_end
    for cut in range(25, len(frames)):
        follower = Sse(port)
        follower.take(frames[:cut], 12)
        assert follower.opened == 1
        follower.take(frames[cut:], 12)
        assert follower.finished == 1
        follower.socket.close()
    follower = Sse(port)
    follower.take(b"\nid: 120" + line_end, 12)
    assert follower.finished == 0
    follower.socket.close()


def test_grpc_followers_are_counted_by_stream(port: int) -> None:
    """Each stream opens with its first DATA frame and finishes with the answer that has the last cursor."""
    connection = Grpc(port, 2)

    def data(stream: int, cursor: int) -> bytes:
        body = answer(cursor)
        payload = b"\0" + len(body).to_bytes(4) + body
        return len(payload).to_bytes(3) + b"\0\0" + stream.to_bytes(4) + payload

    stream = data(1, 1) + data(3, 1) + data(1, 300)
    connection.take(stream[:-7], 300)
    assert (connection.opened, connection.finished) == (2, 0)
    connection.take(stream[-7:], 300)
    connection.take(data(3, 300), 300)
    assert (connection.opened, connection.finished) == (2, 2)
    connection.socket.close()
