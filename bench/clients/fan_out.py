"""Many followers of one topic on bare sockets: KIND(sse|grpc) FOLLOWERS MESSAGES SIZE REST_PORT FOLLOW_PORT.

Prints a line once all follow, waits for one on its input, publishes over HTTP, four requests in flight, and prints the
time until the last follower has the last message. HTTP and gRPC libraries would cost more than the servers they load.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from hpack import Encoder

from bench.clients.catch_up import ending
from proto.trivium.v1 import messages_pb2 as pb

HOST = "127.0.0.1"
TOPIC = "t"
PUBLISHERS = 4
STREAMS_EACH = 100
_READ_BYTES = 1 << 18
_IDLE_SECONDS = 30.0


class Connection(Protocol):
    """One socket that carries one follower or more."""

    socket: socket.socket
    opened: int
    finished: int

    def take(self, data: bytes, last: int) -> None:
        """Look at what came; `last` is the offset that ends a follower, 0 while it is unknown."""


class Sse:
    """A follower over HTTP/1.1. Its frames are found in the stream of bytes, whatever the chunks."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.sendall(b"GET /api/topics/%b/stream HTTP/1.1\r\nhost: localhost\r\n\r\n" % TOPIC.encode())
        self.opened = self.finished = 0
        self._rest = b""

    def take(self, data: bytes, last: int) -> None:
        data = self._rest + data
        self._rest = data[-32:]
        if not self.opened:
            self.opened = int(b"\nid: " in data)
        if last and not self.finished:
            self.finished = int(b"\nid: %d\n" % last in data or b"\nid: %d\r\n" % last in data)


class Grpc:
    """A hundred Follows on one HTTP/2 connection (RFC 9113), with windows that never close."""

    _PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    _DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
    _ACK = 1
    _END_HEADERS, _END_STREAM = 4, 1
    _LARGEST = 2**31 - 1

    def __init__(self, port: int, streams: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened = self.finished = 0
        self._seen: set[int] = set()
        self._rest = b""
        window = (4).to_bytes(2) + self._LARGEST.to_bytes(4)
        parts = [self._PREFACE, _frame(self._SETTINGS, 0, 0, window)]
        parts.append(_frame(self._WINDOW_UPDATE, 0, 0, (self._LARGEST - 65535).to_bytes(4)))
        request = pb.FollowRequest(topic=TOPIC).SerializeToString()
        for number in range(streams):
            headers = _encoder.encode(_FOLLOW)
            parts.append(_frame(self._HEADERS, self._END_HEADERS, 2 * number + 1, headers))
            body = b"\0" + len(request).to_bytes(4) + request
            parts.append(_frame(self._DATA, self._END_STREAM, 2 * number + 1, body))
        self.socket.sendall(b"".join(parts))

    def take(self, data: bytes, last: int) -> None:
        data = self._rest + data
        place = 0
        final = ending(last) if last else b""
        while len(data) - place >= 9:
            end = place + 9 + int.from_bytes(data[place : place + 3])
            if end > len(data):
                break
            self._frame(data[place + 3], data[place + 4], data[place + 5 : place + 9], data[place + 9 : end], final)
            place = end
        self._rest = data[place:]

    def _frame(self, kind: int, flags: int, stream: bytes, payload: bytes, final: bytes) -> None:
        if kind == self._DATA:
            if len(self._seen) < STREAMS_EACH and (number := int.from_bytes(stream)) not in self._seen:
                self._seen.add(number)
                self.opened += 1
            if final and payload.endswith(final):
                self.finished += 1
        elif kind in (self._SETTINGS, self._PING) and not flags & self._ACK:
            self.socket.sendall(_frame(kind, self._ACK, 0, payload if kind == self._PING else b""))


_encoder = Encoder()
_encoder.header_table_size = 0  # each request says all: the peer's table is its own affair
_FOLLOW = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/trivium.v1.Messages/Follow"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


class Publisher:
    """One message after another over HTTP/1.1, each once the one before was answered."""

    def __init__(self, port: int, take: Callable[[], bool], answered: Callable[[int], None], size: int) -> None:
        self.socket = socket.create_connection((HOST, port))
        self._take = take
        self._answered = answered
        self._rest = b""
        head = f"POST /api/topics/{TOPIC}/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
        self._request = f"{head}content-length: {size}\r\n\r\n{'m' * size}".encode()

    def next(self) -> None:
        if self._take():
            self.socket.sendall(self._request)

    def receive(self) -> None:
        self._rest += self.socket.recv(_READ_BYTES)
        if not self._rest.endswith(b"}"):
            return
        self._answered(json.loads(self._rest.partition(b"\r\n\r\n")[2])["offset"])
        self._rest = b""
        self.next()


class FanOut:
    """The followers and the publishers, in one loop."""

    def __init__(self, connections: list[Connection], followers: int, messages: int) -> None:
        self._connections = connections
        self._followers = followers
        self._messages = messages
        self._sent = 0
        self._last = 0
        self._selector = selectors.DefaultSelector()
        for connection in connections:
            connection.socket.setblocking(True)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def open(self) -> None:
        """Return once each follower has its first answer."""
        while sum(connection.opened for connection in self._connections) < self._followers:
            self._turn()

    def run(self, port: int, size: int) -> float:
        """Publish it all; the seconds until every follower has it all."""
        publishers = [Publisher(port, self._may_send, self._answered, size) for _ in range(PUBLISHERS)]
        for publisher in publishers:
            self._selector.register(publisher.socket, selectors.EVENT_READ, publisher)
        begun = time.perf_counter()
        publishers[0].next()
        publishers[0].receive()  # its answer tells which offset will be the last
        for publisher in publishers[1:]:
            publisher.next()
        while sum(connection.finished for connection in self._connections) < self._followers:
            self._turn()
        return time.perf_counter() - begun

    def _may_send(self) -> bool:
        self._sent += 1
        return self._sent <= self._messages

    def _answered(self, offset: int) -> None:
        self._last = self._last or offset + self._messages - 1

    def _turn(self) -> None:
        ready = self._selector.select(_IDLE_SECONDS)
        if not ready:
            raise SystemExit("nothing comes any more")
        for key, _ in ready:
            if isinstance(key.data, Publisher):
                key.data.receive()
                continue
            data = key.data.socket.recv(_READ_BYTES)
            if not data:
                raise SystemExit("a connection was closed")
            key.data.take(data, self._last)


def connect(kind: str, followers: int, port: int) -> Iterator[Connection]:
    if kind == "sse":
        yield from (Sse(port) for _ in range(followers))
    else:
        yield from (Grpc(port, min(STREAMS_EACH, followers - first)) for first in range(0, followers, STREAMS_EACH))


def main(kind: str, followers: int, messages: int, size: int, rest_port: int, follow_port: int) -> None:
    fan_out = FanOut(list(connect(kind, followers, follow_port)), followers, messages)
    fan_out.open()
    print("open", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    seconds = fan_out.run(rest_port, size)
    share = (time.process_time() - cpu) / seconds
    print(json.dumps({"count": messages * followers, "seconds": seconds, "load_share": share}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:7]))
