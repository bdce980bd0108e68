"""Following a topic as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import nullcontext, suppress

from starlette.types import Receive, Scope, Send

from core.errors import Unauthenticated
from core.gate import Session
from core.messages import Page, StoredMessage, weight
from core.settings import Settings
from transports.cloudevents import encode_event
from transports.encodings import Encodings
from transports.rest.answers import Answer
from transports.rest.presence import ClientGone, while_present
from transports.rest.responses import CR, LF

EVENT_STREAM = "text/event-stream"
#: A proxy that collects an answer before it passes it on would hold events back.
_HEADERS = ((b"x-accel-buffering", b"no"),)
#: One write of several frames, unless a single one is larger.
_BLOCK_BYTES = 64 * 1024
#: Frames kept for the other followers of a topic, so that a message is encoded once for all of them.
_CACHE_BYTES = 16 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")

#: The head of a stream, also for HEAD.
STREAM_START = Answer(content_type=EVENT_STREAM, headers=_HEADERS, tell_length=False)


def blocks(frames: Encodings, page: Page) -> Iterator[bytes]:
    """The frames of a page, joined into few writes."""
    block: list[bytes] = []
    size = 0
    for stored in page.messages:
        frame = frames.of(stored)
        if block and size + len(frame) > _BLOCK_BYTES:
            yield b"".join(block)
            block, size = [], 0
        block.append(frame)
        size += len(frame)
    if block:
        yield b"".join(block)


class EventStreams:
    """What the streams of a door share: the frames, and the places for those that write much at once.

    Followers that lag or follow large messages take turns, so that slow ones hold a bounded number of pages' frames.
    """

    def __init__(self, settings: Settings) -> None:
        self.frames = Encodings(frame_of, 0 if settings.core else _CACHE_BYTES)
        self.large = asyncio.Semaphore(max(1, settings.rest_inflight_bytes // (2 * settings.max_message_bytes)))
        self.comment_seconds = settings.rest_comment_seconds


class EventStream:
    """The response that follows a topic: it ends when the service drains, the client leaves or its credential ends."""

    def __init__(self, pages: AsyncGenerator[Page], cursor: int, session: Session, shared: EventStreams) -> None:
        self._pages = pages
        self._cursor = cursor
        self._session = session
        self._shared = shared
        self._writing = False

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end. Comments come from a task beside it, since a page can't be waited for under a timeout:
        what is cancelled while it waits for the next page has lost its generator."""
        try:
            async with while_present(receive):
                await send(STREAM_START.start(scope))
                with suppress(Unauthenticated):  # who comes again is told
                    async with self._session.lifetime():
                        await self._write_all(send)
                await send({"type": "http.response.body"})
        except ClientGone:
            return
        finally:
            await self._pages.aclose()

    async def _write_all(self, send: Send) -> None:
        await self._write(b"id: %d\n\n" % self._cursor, send)
        comments = asyncio.create_task(self._comment(send), name="rest-comments")
        try:
            async for page in self._pages:
                await self._write_page(page, send)
        finally:
            comments.cancel()
            await asyncio.wait((comments,))

    async def _write_page(self, page: Page, send: Send) -> None:
        is_large = sum(weight(stored.message) for stored in page.messages) > _BLOCK_BYTES
        async with self._shared.large if is_large else nullcontext():
            for block in blocks(self._shared.frames, page):
                await self._write(block, send)

    async def _comment(self, send: Send) -> None:
        """Keep the connection alive, and find out when it is not. While a write is stuck there is nothing to add."""
        while True:
            await asyncio.sleep(self._shared.comment_seconds)
            if not self._writing:
                with suppress(ClientGone, OSError):  # the stream itself will see it
                    await self._write(b":\n\n", send)

    async def _write(self, block: bytes, send: Send) -> None:
        self._writing = True
        try:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        finally:
            self._writing = False


def frame_of(stored: StoredMessage) -> bytes:
    """A message in a stream of events: `id` its offset, `data` the CloudEvent."""
    event = encode_event(stored)
    if LF in event or CR in event:  # JSON data is kept verbatim, line ends and all
        event = _LINE_END.sub(b"\ndata: ", event)
    return b"id: %d\nevent: message\ndata: %b\n\n" % (stored.offset, event)
