"""What cases ask of RabbitMQ: queues like Trivium's own, their lengths, messages to fill them with."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from bench import loads
from bench.ground import Ground
from bench.servers import PEERS

#: All that is measured is durable: quorum queues of one node, with no limit of deliveries.
QUORUM: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1}
_POLL_SECONDS = 0.01
_WAIT_SECONDS = 120.0


@contextmanager
def channel_to(ground: Ground) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(ground.amqp_url)) as connection:
        yield connection.channel()


def make_queue(ground: Ground, queue: str, *, exchange: str = "", routing_key: str = "") -> None:
    """A queue, bound to a topic exchange, which is made as Trivium would, if one is named."""
    with channel_to(ground) as channel:
        channel.queue_declare(queue, durable=True, arguments=QUORUM)
        if exchange:
            channel.exchange_declare(exchange, "topic", durable=True)
            channel.queue_bind(queue, exchange, routing_key)


def drop_queue(ground: Ground, queue: str) -> None:
    with channel_to(ground) as channel:
        channel.queue_delete(queue)


def fill(ground: Ground, exchange: str, routing_key: str, count: int, size: int) -> None:
    """Publish so many messages, and return once all are confirmed."""
    arguments = [ground.amqp_url, exchange, routing_key, str(count), str(size)]
    loads.run(ground, [PEERS / "python", "-m", "bench.peers.pika_publish", *arguments], _WAIT_SECONDS)


def await_queue(ground: Ground, queue: str) -> None:
    """Return once somebody has declared it."""

    def declared() -> int:
        try:
            with channel_to(ground) as channel:
                channel.queue_declare(queue, passive=True)
            return 1
        except ChannelClosedByBroker:
            return 0

    until(declared, 1)


@contextmanager
def lengths(ground: Ground, queue: str) -> Iterator[Callable[[], int]]:
    """Tells how long a queue is, over one connection."""
    with channel_to(ground) as channel:
        yield lambda: channel.queue_declare(queue, passive=True).method.message_count


def until(count: Callable[[], int], least: int) -> int:
    """Ask every few milliseconds until the count is at least that; the count. Raises `LoadFailed` after two minutes."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while (found := count()) < least:
        if time.monotonic() > deadline:
            raise loads.LoadFailed(f"{found} of {least} messages after {_WAIT_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    return found
