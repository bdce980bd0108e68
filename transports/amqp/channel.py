"""One AMQP channel to await: pika calls back, here its answers are awaited."""

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import Any, Self

from pika.exceptions import AMQPError
from pika.exceptions import ChannelClosed as PikaChannelClosed

from transports.amqp import frames
from transports.amqp.frames import Delivery
from transports.amqp.reasons import explain
from transports.amqp.wire import Connection

#: RabbitMQ answers a declaration within milliseconds; a node under load or a cluster takes seconds.
_ANSWER_SECONDS = 20.0
_CLOSE_SECONDS = 2.0


class ChannelLost(Exception):
    """The channel is gone, and with it every delivery and confirm of it. `code` is AMQP's, where there is one."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class Channel:
    """Methods raise `ChannelLost` once the channel is gone; `lost` is done then, with that error as its result."""

    raw: Any = None  # pika's channel

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lost: Future[ChannelLost] = asyncio.get_running_loop().create_future()
        self._frame_bytes = connection.frame_bytes
        self._answers: set[Future[Any]] = set()

    @classmethod
    async def open(cls, connection: Connection) -> Self:
        channel = cls(connection)
        channel.raw = await channel._answer(
            lambda callback: connection.raw.channel(on_open_callback=callback).add_on_close_callback(channel._on_close)
        )
        channel.raw.add_on_cancel_callback(channel._on_cancel)
        return channel

    async def call(self, method: str, **arguments: Any) -> None:
        """Call a method of pika's channel by its name and await the broker's answer."""
        await self._answer(lambda callback: getattr(self.raw, method)(callback=callback, **arguments))

    async def consume(self, queue: str, prefetch: int, receive: Callable[[Delivery], None]) -> None:
        """Have `receive` called with each message; at most `prefetch` are unacknowledged.

        A consumer that the broker cancels, since its queue is deleted, loses the channel.
        """

        def on_message(_channel: Any, method: Any, properties: bytes, body: bytes) -> None:
            receive(Delivery(method.delivery_tag, method.exchange, method.routing_key, properties, body))

        await self.call("basic_qos", prefetch_count=prefetch)
        self.connection.raw.receivers[self.raw.channel_number] = receive
        await self.call("basic_consume", queue=queue, on_message_callback=on_message)

    def publish(
        self, exchange: str, routing_key: str | bytes, properties: bytes, body: bytes, *, mandatory: bool = False
    ) -> None:
        """Send a message, `properties` as on the wire; `ValueError` for a name that is too long."""
        if not self.raw.is_open:
            raise ChannelLost("the channel is not open")
        key = routing_key if isinstance(routing_key, bytes) else routing_key.encode()
        number, most = self.raw.channel_number, self._frame_bytes
        self.connection.raw.send(
            frames.publication(number, exchange.encode(), key, properties, body, mandatory=mandatory, most=most)
        )

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        if self.lost.done():
            raise self.lost.result()
        try:
            self.raw.basic_ack(tag, multiple)
        except AMQPError as error:
            raise ChannelLost(explain(error)) from error

    async def close(self) -> None:
        """Close it; unacknowledged deliveries go back to their queue, in their order.

        Consumers must not be cancelled first, as pika does on closing: the next consumer would get what is ready in
        the queue before that which this one has not acknowledged comes back. To pika they are cancelled already.
        """
        if not self.lost.done() and self.raw.is_open:
            self._receive_no_more()
            self.raw._cancelled.update(self.raw.consumer_tags)
            self.raw.close()
            await asyncio.wait({self.lost}, timeout=_CLOSE_SECONDS)

    async def _answer(self, send: Callable[[Callable[[Any], None]], Any]) -> Any:
        answer: Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            raise self.lost.result()
        self._answers.add(answer)
        try:
            send(lambda result: None if answer.done() else answer.set_result(result))
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await answer
        except AMQPError as error:
            raise ChannelLost(explain(error)) from error
        except TimeoutError as error:
            self._end(ChannelLost(f"no answer within {_ANSWER_SECONDS:g} s"))
            self.connection.unanswered()
            raise self.lost.result() from error
        finally:
            self._answers.discard(answer)

    def _on_cancel(self, frame: Any) -> None:
        self._end(ChannelLost(f"the broker cancelled the consumer {frame.method.consumer_tag}: its queue is gone"))
        if self.raw.is_open:
            self.raw.close()

    def _on_close(self, _raw: Any, error: Exception) -> None:
        code = error.reply_code if isinstance(error, PikaChannelClosed) else 0
        self._end(ChannelLost(explain(error), code))

    def _end(self, error: ChannelLost) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
            self._receive_no_more()
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(ChannelLost(str(error), error.code))

    def _receive_no_more(self) -> None:
        """What still comes goes to pika, and the channel's number to another channel once this is closed."""
        if self.raw is not None:
            self.connection.raw.receivers.pop(self.raw.channel_number, None)
