"""The streams of a connection of HTTP/2: Hypercorn's, with what it leaves open (0.18)."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from h2.errors import ErrorCodes
from h2.events import Event as H2Event
from h2.events import PriorityUpdated, RequestReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypercorn.events import Updated
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, BufferCompleteError, H2Protocol, StreamBuffer


class Http2Streams(H2Protocol):
    """Hypercorn's side of the frames, with streams that end in every case.

    A stream is here until the application is done with it, and its buffer until the task that sends has ended the
    stream or found it closed. Hypercorn says goodbye after the former, which costs answers their end. A reset it
    neither takes for the end of a request, nor tells to who waits for the buffer, and keeps a buffer that was empty
    then; and it leaves the client of an application that broke off waiting.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.streams = _Streams()
        del self.connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]  # hypercorn offers it, we do not

    async def _handle_events(self, events: list[H2Event]) -> None:
        taken = [event for event in events if not isinstance(event, RequestReceived) or self._is_taken(event)]
        await super()._handle_events(taken)

    def _is_taken(self, request: RequestReceived) -> bool:
        """Whether a request goes further than here; if it does, who waits with the body is told to send it.

        That is RFC 9110, section 10.1.1. Here it is told in every case: an answer does not have to wait for the body.
        """
        headers = dict(request.headers)
        fault = self._fault(headers)
        with suppress(ProtocolError):  # the client reset it in the same breath
            if fault is not None:
                self.connection.reset_stream(request.stream_id, fault)
            elif request.stream_ended is None and headers.get(b"expect", b"").lower() == b"100-continue":
                self.connection.send_headers(request.stream_id, [(b":status", b"100")])
        return fault is None

    def _fault(self, headers: Mapping[bytes, bytes]) -> ErrorCodes | None:
        """Why a request is not taken: it comes too late, or would cost the whole connection in hypercorn's hands.

        Of a CONNECT it makes a WebSocket, which never tells that the connection is idle again; and it writes any
        method in capitals, though their case matters (RFC 9110, section 9.1).
        """
        if self.context.terminated.is_set():
            return ErrorCodes.REFUSED_STREAM
        method, path = headers[b":method"], headers.get(b":path")  # h2 demands a method
        is_sound = path is not None and path.isascii() and method.isascii() and method.upper() == method != b"CONNECT"
        return None if is_sound else ErrorCodes.PROTOCOL_ERROR

    async def stream_send(self, event: Event) -> None:
        if isinstance(event, StreamClosed):
            await self._answered(event.stream_id)
        else:
            await super().stream_send(event)

    async def _answered(self, stream_id: int) -> None:
        """The application is done."""
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None:
            await self._settle()
        elif not buffer.complete:
            with suppress(ProtocolError):  # it is closed already
                self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
            await self._flush()
            await self._discard(stream_id, buffer)

    async def _close_stream(self, stream_id: int) -> None:
        """The client is done: it reset the stream, or the connection is lost."""
        await super()._close_stream(stream_id)
        if stream_id in self.stream_buffers:
            await self._discard(stream_id, self.stream_buffers[stream_id])

    async def _discard(self, stream_id: int, buffer: StreamBuffer) -> None:
        """Let go who waits for the buffer, and the task that sends find it closed."""
        await buffer.close()
        self.priority.unblock(stream_id)
        await self.has_data.set()

    async def _create_stream(self, request: RequestReceived) -> None:
        await super()._create_stream(request)  # nobody had a turn to use the buffer
        self.stream_buffers[request.stream_id] = _Buffer(self.context.event_class)

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """Nothing: RFC 9113, section 5.3.2. Hypercorn keeps what it is told of any stream, and breaks at a thousand."""

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        if stream_id not in self.stream_buffers:
            await self._settle()

    async def _settle(self) -> None:
        """Idle, after the last end is sent."""
        if not (self.streams or self.stream_buffers):
            await self.send(Updated(idle=True))

    def goodbye(self) -> bytes:
        """What lets the client know which requests were taken, before the connection closes (RFC 9113, section 6.8)."""
        with suppress(ProtocolError):  # it is closed already
            self.connection.close_connection()
        return self.connection.data_to_send()


class _Buffer(StreamBuffer):
    """Keeps the application waiting while much is left, however little of it was sent; hypercorn's goes by the latter.

    It would let an application go on after a frame of no bytes, so that the answer to a client that opens no window
    would heap up.
    """

    async def push(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            await self._paused.wait()

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class _Streams(dict[int, Any]):
    """Lets data for a stream that was answered early pass by: hypercorn would lose the whole connection over it."""

    def __missing__(self, stream_id: int) -> "_Ended":
        return _ENDED


class _Ended:
    async def handle(self, event: object) -> None:
        """Nobody is there to take it."""


_ENDED = _Ended()
