"""Publisher confirms on one channel: what becomes of each message."""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import takewhile
from typing import Any, Self

from pika.spec import Basic

from core.ports import Undeliverable, Unroutable
from core.telemetry import vocabulary
from core.telemetry.figures import Figure, Histogram
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.wire import BrokerSilent

#: The clock looks at what is due this many times within the deadline.
_TICKS = 8


class Settled:
    """How many messages were settled how, over all channels that one part published on."""

    def __init__(self, destination: str) -> None:
        self.counts = dict.fromkeys(("", "nack", "return", "timeout", "lost", "refused"), 0)
        self.seconds = Histogram(vocabulary.SECONDS)
        self._labels = "rabbitmq", "publish", destination

    def figures(self) -> Iterator[Figure]:
        for error_type, count in self.counts.items():
            yield vocabulary.SENT.of(count, *self._labels, error_type)
        yield vocabulary.SEND_SECONDS.of(self.seconds, *self._labels)


class Confirms:
    """Publishes on a channel and settles a future per message, without a task or a timer for each.

    A message that no queue takes is returned *and then acknowledged*; the Return counts. It tells no delivery
    tag, so messages that shall be returned carry a `key`, which `key_of` finds again in the Return. Of several that
    have the same, any may be meant, so all fail: one that is taken for routed would be lost.
    """

    def __init__(
        self, channel: Channel, seconds: float, key_of: Callable[[str, bytes], Hashable], settled: Settled
    ) -> None:
        self.channel = channel
        self._settled = settled
        self._timed = 0  # the tag whose confirm is timed: one at a time
        self._timed_at = 0.0
        self._seconds = seconds
        self._key_of = key_of
        self._loop = asyncio.get_running_loop()
        self._tag = 0  # of the message published last; RabbitMQ counts alike, from 1
        self._open: dict[int, tuple[Future[None], Hashable]] = {}
        self._marks: deque[tuple[float, int, int]] = deque()  # when, the tag published last and the bytes heard then
        self._timer = self._loop.call_later(seconds / _TICKS, self._tick)
        channel.lost.add_done_callback(lambda lost: self._end(lost.result()))

    @classmethod
    async def on(
        cls, channel: Channel, seconds: float, key_of: Callable[[str, bytes], Hashable], settled: Settled
    ) -> Self:
        """Switch confirms on. A confirm that takes longer than `seconds` fails its message."""
        confirms = cls(channel, seconds, key_of, settled)
        channel.raw.add_on_return_callback(confirms._on_return)
        await channel.call("confirm_delivery", ack_nack_callback=confirms._on_confirm)
        return confirms

    def publish(
        self, exchange: str, routing_key: str | bytes, properties: bytes, body: bytes, key: Hashable = None
    ) -> Future[None]:
        """Send a message, as `core.ports.BrokerPublisher` promises; without a `key` it needs no queue to take it."""
        future: Future[None] = self._loop.create_future()
        try:
            self.channel.publish(exchange, routing_key, properties, body, mandatory=key is not None)
        except (ChannelLost, ValueError) as error:
            self._settled.counts["refused"] += 1
            future.set_exception(Undeliverable(f"could not be sent: {error!r}"))
            return future
        self._tag += 1
        self._open[self._tag] = (future, key)
        if not self._timed:
            self._timed, self._timed_at = self._tag, self._loop.time()
        return future

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        refused = Undeliverable("the broker refused it") if isinstance(method, Basic.Nack) else None
        how = "" if refused is None else "nack"
        if not method.multiple:
            self._settle(tag, refused, how)
            return
        last = tag or self._tag
        for each in list(takewhile(last.__ge__, self._open)):  # which has them in their order
            self._settle(each, refused, how)

    def _on_return(self, _channel: Any, method: Any, properties: bytes, _body: bytes) -> None:
        key = self._key_of(method.routing_key, properties)
        if key is None:
            return
        # looked for here, since few messages are returned and all would have to be indexed
        for tag in [tag for tag, (_, one) in self._open.items() if one == key]:
            self._settle(tag, Unroutable(f"no queue takes it: {method.reply_code} {method.reply_text}"), "return")

    def _settle(self, tag: int, failure: Undeliverable | None, how: str) -> None:
        found = self._open.pop(tag, None)
        if found is None:
            return
        self._settled.counts[how] += 1
        if tag == self._timed:
            self._timed = 0
            if failure is None:
                self._settled.seconds.observe(self._loop.time() - self._timed_at)
        future, _ = found
        if future.done():
            return
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

    def _tick(self) -> None:
        """Fail what is overdue, as it is when a queue has lost its quorum.

        If the broker sent nothing at all meanwhile it is frozen, and the connection is given up.
        """
        self._timer = self._loop.call_later(self._seconds / _TICKS, self._tick)
        now = self._loop.time()
        connection = self.channel.connection
        if connection.blocked is not None:
            self._marks.clear()  # it said that it would wait
        while self._marks and self._marks[0][0] <= now - self._seconds:
            _, last, heard = self._marks.popleft()
            overdue = [tag for tag in self._open if tag <= last]
            if overdue and heard == connection.heard:
                connection.cut(BrokerSilent(f"the broker was silent for {self._seconds:g} s"))
                return
            for tag in overdue:
                self._settle(tag, Undeliverable(f"no confirm within {self._seconds:g} s"), "timeout")
        self._marks.append((now, self._tag, connection.heard))

    def _end(self, reason: ChannelLost) -> None:
        self._timer.cancel()
        for tag in list(self._open):
            self._settle(tag, Undeliverable(f"the channel was lost: {reason}"), "lost")
