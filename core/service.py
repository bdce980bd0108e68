"""The operations on a log in this process."""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from core.errors import InvalidArgument, NotFound, Overloaded
from core.limits import Limits, check_offset, check_topic
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.ports import MessageLog
from core.settings import Settings
from core.telemetry.figures import Figure
from core.telemetry.metrics import bound

MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_WAIT_SECONDS = 60.0
#: An answer holds this much or one message: gRPC clients take 4 MiB by default.
PAGE_BYTES = 3 * 1024 * 1024
#: A follower that lags holds a page, small, since there may be thousands. But each page costs some 0.2 ms whatever is
#: in it: so they are large as long as all followers together could not hold more than this.
_FOLLOWERS_BYTES = 32 * 1024 * 1024
_LARGE_BYTES, _SMALL_BYTES = 1024 * 1024, 256 * 1024


class LocalService:
    """`MessageService` over a `MessageLog`. It judges all input, so that the doors need not."""

    def __init__(self, log: MessageLog, limits: Limits, *, default_topic: str, greeting: str, max_streams: int) -> None:
        self.streams = 0
        self._log = log
        self._limits = limits
        self._default_topic = default_topic
        self._greeting = greeting
        self._max_streams = max_streams
        self._draining = False

    @classmethod
    def of(cls, log: MessageLog, settings: Settings) -> Self:
        """The service that the settings describe."""
        return cls(
            log,
            settings.limits,
            default_topic=settings.default_topic,
            greeting=settings.greeting,
            max_streams=settings.max_streams,
        )

    def figures(self) -> Iterable[Figure]:
        return bound("streams", self.streams, self._max_streams)

    def drain(self) -> None:
        """End streams and waiting reads; everything else goes on."""
        self._draining = True
        self._log.release()

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        topic = self._default_topic if topic is None else topic
        check_topic(topic)
        return await self._log.newest(topic) or Greeting(topic, self._greeting)

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        check_topic(topic)
        return self._log.append(topic, messages, self._limits.check_batch(messages))

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        check_topic(topic)
        check_offset(offset, "offset", lowest=1)
        for stored in await self._log.read(topic, offset - 1, 1, 0):
            if stored.offset == offset:
                return stored
        raise NotFound(f"topic {topic!r} has no message at offset {offset}", field="offset")

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        check_topic(topic)
        limit = check_limit(limit)
        check_wait(wait)
        head = await self._check_cursor(topic, after)
        if head == after and wait:
            await self._wait(topic, after, wait)
        messages = await self._log.read(topic, after, limit, PAGE_BYTES)
        return Page(messages, messages[-1].offset if messages else after)

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        check_topic(topic)
        cursor = await self._log.head(topic) if after is None else after
        await self._check_cursor(topic, cursor)
        with self._stream():
            yield Page((), cursor)
            while not self._draining:
                messages = await self._log.read(topic, cursor, MAX_PAGE, self._follow_bytes())
                if messages:
                    cursor = messages[-1].offset
                    yield Page(messages, cursor)
                else:
                    await self._log.beyond(topic, cursor)

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        limit = check_limit(limit)
        if after:
            check_topic(after, "after")
        found = await self._log.topics(after, limit + 1)
        return TopicPage(found[:limit], found[limit - 1].topic if len(found) > limit else None)

    async def _check_cursor(self, topic: str, after: int) -> int:
        check_offset(after, "after")
        head = await self._log.head(topic)
        if after > head:
            raise InvalidArgument(f"is above the head of the topic, which is {head}", field="after")
        return head

    async def _wait(self, topic: str, after: int, seconds: float) -> None:
        with self._stream():
            try:
                async with asyncio.timeout(seconds):
                    await self._log.beyond(topic, after)
            except TimeoutError:
                return

    def _follow_bytes(self) -> int:
        return max(_SMALL_BYTES, min(_LARGE_BYTES, _FOLLOWERS_BYTES // self.streams))

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """A place among those who wait; `Overloaded` if there is none."""
        if self.streams >= self._max_streams:
            raise Overloaded(f"{self.streams} streams and waiting reads are open, which is the most", retry_after=5.0)
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


def check_wait(wait: float) -> None:
    """Raise `InvalidArgument` unless a page may be waited for that long."""
    if not 0 <= wait <= MAX_WAIT_SECONDS:
        raise InvalidArgument(f"must be from 0 to {MAX_WAIT_SECONDS:g} seconds", field="wait")


def check_limit(limit: int | None) -> int:
    """The size of a page that was asked for; `InvalidArgument` if there is none of that size."""
    if limit is None:
        return DEFAULT_PAGE
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidArgument(f"must be an integer from 1 to {MAX_PAGE}", field="limit")
    return limit
