"""The service as one caller may use it."""

from asyncio import Future
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from core.allowance import Allowance
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicHead, TopicPage
from core.policy import Principal, Scope
from core.ports import MessageService
from core.service import DEFAULT_PAGE, MAX_PAGE


class Caller(Protocol):
    """Whose rights and allowance count; the rights may change while a stream is open."""

    @property
    def principal(self) -> Principal: ...

    @property
    def allowance(self) -> Allowance: ...

    def check(self) -> None:
        """Raise `Unauthenticated` once the credential has ended."""


class GuardedService:
    """A `MessageService` that does what the caller may, and else raises `Unauthenticated` or `PermissionDenied`.

    Past the caller's rates it raises `Overloaded` with when to repeat.
    """

    def __init__(self, service: MessageService, caller: Caller, *, default_topic: str) -> None:
        self._service = service
        self._caller = caller
        self._default_topic = default_topic

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        self._begin("get_data", self._default_topic if topic is None else topic)
        return await self._service.get_data(topic)

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        self._allow("publish", topic)
        self._caller.allowance.publish(messages)
        return self._service.publish(topic, messages)

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        self._begin("get_message", topic)
        return await self._service.get_message(topic, offset)

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        self._begin("read_messages", topic)
        if not wait:
            return await self._service.read_messages(topic, after=after, limit=limit)
        with self._caller.allowance.stream():
            page = await self._service.read_messages(topic, after=after, limit=limit, wait=wait)
        self._allow("read_messages", topic)  # much may have happened
        return page

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        self._begin("follow", topic)
        with self._caller.allowance.stream():
            async with aclosing(self._service.follow(topic, after)) as pages:
                async for page in pages:
                    self._allow("follow", topic)
                    yield page

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        """Those that the caller may read."""
        self._caller.check()
        principal = self._caller.principal
        if not principal.may_somewhere(Scope.READ):
            principal.allow("list_topics")
        self._caller.allowance.request()
        if principal.may(Scope.READ, None):
            return await self._service.list_topics(after=after, limit=limit)
        first = await self._service.list_topics(after=after, limit=limit)  # judges the arguments too
        wanted = DEFAULT_PAGE if limit is None else limit
        found: list[TopicHead] = []
        page = first
        while True:
            self._caller.check()  # a look through all topics takes long
            principal = self._caller.principal
            found += [one for one in page.topics if principal.may(Scope.READ, one.topic)]
            if len(found) > wanted:
                return TopicPage(tuple(found[:wanted]), found[wanted - 1].topic)
            if page.next is None:
                return TopicPage(tuple(found), None)
            page = await self._service.list_topics(after=page.next, limit=MAX_PAGE)

    def _begin(self, operation: str, topic: str) -> None:
        self._allow(operation, topic)
        self._caller.allowance.request()

    def _allow(self, operation: str, topic: str) -> None:
        self._caller.check()
        self._caller.principal.allow(operation, topic)
