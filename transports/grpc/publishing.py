"""PublishStream: many requests in flight, answered in their order."""

import asyncio
from asyncio import Future
from collections import deque
from time import perf_counter
from typing import Self, TypeAlias

from msgspec import Struct

from core.closing import Closing
from core.errors import TriviumError
from core.limits import Limits
from core.messages import Published, held_by
from core.telemetry.meter import CANCELLED, OK, Instrument
from core.telemetry.propagation import propagate
from proto.trivium.v1 import messages_pb2 as pb
from transports.grpc import codec
from transports.grpc.calls import Call
from transports.grpc.errors import refusal

#: What one stream may have in flight: enough to fill commit groups, a fraction of what may wait for a commit in all.
_WINDOW_REQUESTS = 128
_WINDOW_BYTES = 8 * 1024 * 1024


class Refused(Struct, frozen=True):
    """The code of an error and the answer that tells of it. The error itself would keep the request in memory."""

    code: str
    answer: bytes

    @classmethod
    def by(cls, error: TriviumError) -> Self:
        return cls(error.code, pb.PublishStreamResponse(status=refusal(error)).SerializeToString())


#: What became of a request when it was read.
Begun: TypeAlias = Future[tuple[Published, ...]] | Refused


class PublishStream:
    """Serves the RPC. Publishing begins in the order of the requests, and order of calls is order of commit."""

    def __init__(self, closing: Closing, streamed: Instrument, *, limits: Limits) -> None:
        """`streamed` counts each request of the streams."""
        self._streamed = streamed
        self._closing = closing
        self._limits = limits

    async def serve(self, call: Call) -> None:
        """Answer until the peer has sent its last request, or the door closes."""
        with call.place():
            await self._serve(call, _Window())

    async def _serve(self, call: Call, window: "_Window") -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._begin_all(call, window), name="grpc-publish-stream")
                while (one := await window.next()) is not None:
                    await call.write(await self._answer(*one))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            for at in window.abandon():
                self._streamed.ended(CANCELLED, at)

    async def _begin_all(self, call: Call, window: "_Window") -> None:
        async with self._closing.until():
            while True:
                await window.room()
                request = await call.read()
                if request is None:
                    break
                window.add(*self._begin(call, request))
                del request  # the next one may be long in coming
        window.end()

    def _begin(self, call: Call, request: bytes) -> tuple[Begun, int]:
        """What became of a request, and how many bytes it is until it is committed, as the store counts at the most.

        A few streams of batches must not fill what may wait there.
        """
        size = len(request)
        try:
            topic, messages = codec.decode_publish(pb.PublishStreamRequest, request, self._limits)
            size = held_by(messages, size)
            return call.service.publish(topic, propagate(messages, self._limits)), size
        except TriviumError as error:
            return Refused.by(error), size

    async def _answer(self, begun: Begun, at: float) -> bytes:
        code = CANCELLED
        try:
            if isinstance(begun, Future):
                code, answer = OK, codec.encode_published(await begun)
            else:
                code, answer = begun.code, begun.answer
        except TriviumError as error:
            refused = Refused.by(error)
            code, answer = refused.code, refused.answer
        finally:
            self._streamed.ended(code, at)
        return answer


class _Window:
    """What was begun and is not answered yet, in order; bounded in requests and bytes. One adds, one takes."""

    def __init__(self) -> None:
        self._begun: deque[tuple[Begun, float, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._added = asyncio.Event()
        self._taken = asyncio.Event()

    async def room(self) -> None:
        """Return once something may be added."""
        while len(self._begun) >= _WINDOW_REQUESTS or self._bytes >= _WINDOW_BYTES:
            self._taken.clear()
            await self._taken.wait()

    def add(self, begun: Begun, size: int) -> None:
        self._begun.append((begun, perf_counter(), size))
        self._bytes += size
        self._added.set()

    def end(self) -> None:
        """Nothing is added any more."""
        self._ended = True
        self._added.set()

    async def next(self) -> tuple[Begun, float] | None:
        """The oldest and when it was begun, None at the end."""
        while not self._begun:
            if self._ended:
                return None
            self._added.clear()
            await self._added.wait()
        begun, at, size = self._begun.popleft()
        self._bytes -= size
        self._taken.set()
        return begun, at

    def abandon(self) -> list[float]:
        """The peer has gone: nobody awaits the rest, whose failures must not count as overlooked. When each began."""
        for begun, _, _ in self._begun:
            if isinstance(begun, Future) and not begun.cancel() and not begun.cancelled():
                begun.exception()
        return [at for _, at, _ in self._begun]
