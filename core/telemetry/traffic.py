"""What goes through a door."""

from asyncio import Future
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.ports import MessageService
from core.telemetry import vocabulary
from core.telemetry.figures import Figure


class Traffic:
    """Messages and bytes of one door, and who follows through it."""

    def __init__(self, door: str) -> None:
        self.followers = 0
        self._door = door
        self._messages_in = self._bytes_in = 0
        self._messages_out = self._bytes_out = 0

    def came(self, messages: Sequence[Message]) -> None:
        self._messages_in += len(messages)
        self._bytes_in += sum([len(message.data) for message in messages])

    def went(self, messages: Sequence[StoredMessage]) -> None:
        self._messages_out += len(messages)
        self._bytes_out += sum([len(stored.message.data) for stored in messages])

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.MESSAGES_IN.of(self._messages_in, self._door)
        yield vocabulary.BYTES_IN.of(self._bytes_in, self._door)
        yield vocabulary.MESSAGES_OUT.of(self._messages_out, self._door)
        yield vocabulary.BYTES_OUT.of(self._bytes_out, self._door)
        yield vocabulary.FOLLOWERS.of(self.followers, self._door)


class CountedService:
    """A `MessageService` that counts what goes through it."""

    def __init__(self, service: MessageService, traffic: Traffic) -> None:
        self._service = service
        self._traffic = traffic

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        newest = await self._service.get_data(topic)
        if isinstance(newest, StoredMessage):
            self._traffic.went((newest,))
        return newest

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        answer = self._service.publish(topic, messages)
        self._traffic.came(messages)
        return answer

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        stored = await self._service.get_message(topic, offset)
        self._traffic.went((stored,))
        return stored

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        page = await self._service.read_messages(topic, after=after, limit=limit, wait=wait)
        self._traffic.went(page.messages)
        return page

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        self._traffic.followers += 1
        try:
            async with aclosing(self._service.follow(topic, after)) as pages:
                async for page in pages:
                    self._traffic.went(page.messages)
                    yield page
        finally:
            self._traffic.followers -= 1

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        return await self._service.list_topics(after=after, limit=limit)
