"""What is held of a queue: RabbitMQ bounds it in messages, by the prefetch; this bounds it in bytes."""

from collections import deque
from collections.abc import Sequence

from transports.amqp.frames import Delivery

#: Received and not yet acknowledged.
MOST_BYTES = 64 * 1024 * 1024
#: Decoding a batch of this much JSON takes some 10 ms, in which the loop does nothing else. It leaves room for the
#: message that passes it, and for attributes, in what a batch may be at most (4 MiB if not set otherwise).
BATCH_BYTES = 2 * 1024 * 1024


class Window:
    """The deliveries of one channel that wait for their turn.

    A delivery that would pass the bound is dropped where it arrives, and so is everything after it. They stay
    unacknowledged: once what was held is done with, the channel is to be closed, and they come again, in
    order. The next channel must have the same prefetch. With a smaller one a part of what came back stays in the
    queue, and what comes back after that is put behind it (RabbitMQ 3.10, quorum queues).
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._waiting: deque[Delivery] = deque()
        self.bytes = 0
        self._overflowed = False

    def receive(self, delivery: Delivery) -> None:
        """A first delivery is kept, whatever its size."""
        size = size_of(delivery)
        if self._overflowed or (self.bytes and self.bytes + size > self._most_bytes):
            self._overflowed = True
            return
        self.bytes += size
        self._waiting.append(delivery)

    def take(self, most: int) -> list[Delivery]:
        """The oldest deliveries, so many unless that would hold up the loop. They count as held until `release`."""
        batch: list[Delivery] = []
        size = 0
        while self._waiting and len(batch) < most and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += size_of(batch[-1])
        return batch

    def release(self, deliveries: Sequence[Delivery]) -> None:
        self.bytes -= sum(map(size_of, deliveries))

    @property
    def spent(self) -> bool:
        """Whether nothing more will come on this channel."""
        return self._overflowed and not self._waiting


def size_of(delivery: Delivery) -> int:
    """Headers count too: a message may have a frame full of them (128 KiB) and no body."""
    return len(delivery.properties) + len(delivery.body)
