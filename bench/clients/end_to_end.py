"""From a REST publish to a consumer at RabbitMQ, at a pace: PORT PATH SIZE RATE SECONDS AMQP_URL QUEUE.

The pace does not wait for answers: what a slow moment delays counts as late. Each message carries when its turn came.
"""

import asyncio
import json
import sys
import time
from collections import deque

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from bench.figures import percentile

CONNECTIONS = 32
_WAIT_SECONDS = 30.0


class Publisher(asyncio.Protocol):
    """One keep-alive connection; it puts itself back among the idle once it was answered."""

    def __init__(self, idle: deque["Publisher"], due: deque[bytes]) -> None:
        self._idle = idle
        self._due = due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._idle.append(self)

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 201"):
            raise SystemExit(f"refused: {data[:300]!r}")
        if self._due:
            self.send(self._due.popleft())
        else:
            self._idle.append(self)


class Consumer:
    """Takes the messages as they come and keeps how late each is."""

    def __init__(self, url: str, queue: str, count: int) -> None:
        self.latencies: list[float] = []
        self.ready = asyncio.Event()
        self.finished = asyncio.Event()
        self._count = count
        self._queue = queue
        self._connection = AsyncioConnection(pika.URLParameters(url), on_open_callback=self._opened)

    def _opened(self, connection: AsyncioConnection) -> None:
        connection.channel(on_open_callback=self._consume)

    def _consume(self, channel: Channel) -> None:
        channel.basic_consume(self._queue, self._take, auto_ack=True, callback=lambda _: self.ready.set())

    def _take(self, _channel: Channel, _method: Basic.Deliver, _properties: BasicProperties, body: bytes) -> None:
        self.latencies.append(time.monotonic() - float(json.loads(body)["due"]))
        if len(self.latencies) == self._count:
            self.finished.set()


def request_of(path: str, size: int, due: float) -> bytes:
    text = f'{{"due": {due:.6f}, "message": "'
    body = text + "m" * (size - len(text) - 2) + '"}'
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


async def main(port: int, path: str, size: int, rate: float, seconds: float, url: str, queue: str) -> None:
    loop = asyncio.get_running_loop()
    count = int(rate * seconds)
    consumer = Consumer(url, queue, count)
    await asyncio.wait_for(consumer.ready.wait(), _WAIT_SECONDS)
    idle: deque[Publisher] = deque()
    waiting: deque[bytes] = deque()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Publisher(idle, waiting), "127.0.0.1", port)
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        request = request_of(path, size, time.monotonic())  # the loop's own timers are a millisecond coarse
        if idle:
            idle.popleft().send(request)
        else:
            waiting.append(request)
    await asyncio.wait_for(consumer.finished.wait(), _WAIT_SECONDS)
    found = sorted(consumer.latencies)
    took = time.monotonic() - begun
    result = {"count": count, "seconds": took}
    result |= {"p50_ms": percentile(found, 0.5) * 1e3, "p99_ms": percentile(found, 0.99) * 1e3}
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(
        main(
            int(sys.argv[1]),
            sys.argv[2],
            int(sys.argv[3]),
            float(sys.argv[4]),
            float(sys.argv[5]),
            sys.argv[6],
            sys.argv[7],
        )
    )
