"""pika's connection to await, whose reading of properties can't fail."""

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.connection import Parameters
from pika.exceptions import InvalidFrameError
from pika.frame import Header
from pika.spec import FRAME_END, FRAME_HEADER

from transports.amqp import frames
from transports.amqp.frames import Delivery

#: A connection that is asked to close gets this long to do so before it is cut.
_CLOSE_SECONDS = 2.0
#: So many channels may hang, each in the queue that it waits for, before the others are disturbed for their sake.
_UNANSWERED = 20
_FRAME = struct.Struct(">BHI")
#: Of a content header, before the properties.
_HEADER_BYTES = 12
_BODY_SIZE = struct.Struct(">Q")
#: At most so much is taken from the socket at once. pika's 4 KiB are a system call for every ten messages.
_RECEIVE_BYTES = 64 * 1024


class BrokerSilent(Exception):
    """The broker keeps the connection open and does not answer."""


class _Connection(AsyncioConnection):
    """Hands out the properties of a message as the bytes they are, for `properties.decode`.

    pika decodes them while it reads from the socket, and what its decoder can't take (a header timestamp in
    milliseconds, a NaN, a malformed table) ends the connection: again at each redelivery, so that one
    message would block its queue for ever. Floats it cuts to integers. It is also pika's way to write each
    frame by a system call of its own; here the frames of a turn of the loop are one write.

    It makes three objects of a delivery, asks for each whether somebody called for such a frame, and moves the rest of
    what was received: half of the CPU that a message of the inbox took. Here deliveries go from the bytes to their
    receiver; pika reads whatever is not one of those, in the order of the wire.
    """

    def __init__(self, *arguments: Any) -> None:
        #: By the channel's number.
        self.receivers: dict[int, Callable[[Delivery], None]] = {}
        self._outgoing: list[bytes] = []
        super().__init__(*arguments)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _RECEIVE_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        self._frame_buffer += data_in
        while self._frame_buffer:
            self._trim_frame_buffer(self._deliver())
            consumed, frame = self._read_frame()
            if frame is None:
                return
            self._trim_frame_buffer(consumed)
            self._process_frame(frame)

    def _deliver(self) -> int:
        """Hand out the deliveries that the buffer begins with; where they end."""
        buffer, at = self._frame_buffer, 0
        while found := frames.delivery(buffer, at):
            channel, delivery, end = found
            receive = self.receivers.get(channel)
            if receive is None:
                break
            receive(delivery)
            at = end
        return at

    def _read_frame(self) -> tuple[int, Any]:
        buffer = self._frame_buffer
        if len(buffer) < _FRAME.size or buffer[0] != FRAME_HEADER:
            return cast(tuple[int, Any], super()._read_frame())
        _, channel, size = _FRAME.unpack_from(buffer)
        end = _FRAME.size + size
        if len(buffer) <= end:
            return 0, None
        if buffer[end] != FRAME_END or size < _HEADER_BYTES:
            raise InvalidFrameError("malformed content header")
        (body_size,) = _BODY_SIZE.unpack_from(buffer, _FRAME.size + 4)
        return end + 1, Header(channel, body_size, cast(BasicProperties, buffer[_FRAME.size + _HEADER_BYTES : end]))

    def send(self, frames_: bytes) -> None:
        """Send whole frames; those of one turn of the loop are one write."""
        self._output_marshaled_frames((frames_,))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._write)
        self._outgoing += marshaled_frames

    def _write(self) -> None:
        outgoing, self._outgoing = b"".join(self._outgoing), []
        if self._transport is not None:  # else the connection was lost meanwhile
            super()._output_marshaled_frames([outgoing])

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # pika 1.4.4 fails on an attempt that ends while it is given up: it then gets a class in place of its instance
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def cut(self, reason: Exception) -> None:
        """End it without a word to the broker."""
        if self._transport is not None:
            self._terminate_stream(reason)


class Connection:
    """An open connection. `lost` is done, with the reason, once it is gone."""

    def __init__(self, parameters: Parameters, flow: Callable[[], None]) -> None:
        """`flow` is called when `blocked` has changed."""
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._flow = flow
        self._unanswered = 0
        self.lost: asyncio.Future[BaseException] = self._loop.create_future()
        self.blocked: str | None = None
        self.raw = _Connection(parameters, self._on_open, self._on_refused, self._on_lost)
        self.raw.add_on_connection_blocked_callback(self._on_blocked)
        self.raw.add_on_connection_unblocked_callback(self._on_unblocked)

    @classmethod
    async def open(cls, parameters: Parameters, flow: Callable[[], None]) -> "Connection":
        """Connect; raises what stood against it, for `explain`. pika's timeouts bound the time it takes."""
        connection = cls(parameters, flow)
        try:
            await asyncio.shield(connection._opened)
        except asyncio.CancelledError:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Say good-bye, or cut it if the broker does not answer."""
        if not (self.raw.is_closed or self.raw.is_closing):
            self.raw.close()
        await asyncio.wait({self.lost}, timeout=_CLOSE_SECONDS)
        if not self.lost.done():
            self.cut(BrokerSilent("no answer to the closing of the connection"))
            await asyncio.wait({self.lost}, timeout=_CLOSE_SECONDS)

    def cut(self, reason: Exception) -> None:
        """End it without a word to the broker; `lost` follows."""
        self.raw.cut(reason)

    @property
    def heard(self) -> int:
        """Bytes received; heartbeats make them grow where nothing else does."""
        return self.raw.bytes_received

    @property
    def frame_bytes(self) -> int:
        """What a frame may take."""
        return int(self.raw.params.frame_max)

    @property
    def properties_bytes(self) -> int:
        """What the properties of a message may take: a frame, less the rest of its content header."""
        return self.frame_bytes - _FRAME.size - _HEADER_BYTES - 1

    def unanswered(self) -> None:
        """A channel got no answer, and is of no more use: pika can't close it. Too many of them end the connection."""
        self._unanswered += 1
        if self._unanswered == _UNANSWERED:
            self.cut(BrokerSilent(f"{_UNANSWERED} channels got no answer"))

    def _on_open(self, _raw: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_refused(self, _raw: Any, error: BaseException) -> None:
        self._on_lost(_raw, error)
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be left who awaits it

    def _on_lost(self, _raw: Any, error: BaseException) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    def _on_blocked(self, _raw: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason or "no reason given")
        self._flow()

    def _on_unblocked(self, _raw: Any, _frame: Any) -> None:
        self.blocked = None
        self._flow()
