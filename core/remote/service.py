"""`MessageService` for doors whose core is in another process."""

from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from hashlib import sha256
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from core.errors import DeadlineExceeded, Overloaded, PermissionDenied, Unauthenticated, Unavailable
from core.health import Health
from core.limits import check_topic
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.ports import MessageService
from core.remote import memory
from core.remote.addresses import Addresses
from core.remote.attempts import Attempts, Question
from core.remote.lanes import Lanes
from core.remote.links import Link
from core.remote.streams import Streams
from core.service import check_limit, check_wait
from core.settings import Settings
from core.telemetry.figures import Figure
from core.telemetry.metrics import bound

T = TypeVar("T")
#: Is told that the core does not take a credential.
Refused: TypeAlias = Callable[[Unauthenticated], None]

#: Last answers kept: some thousands of the common size.
_MEMORY_BYTES = 16 * 1024 * 1024
#: What rejects a publish for reasons that may not have held a moment before.
_REJECTED = (Overloaded, PermissionDenied, Unauthenticated)
#: What an earlier answer may stand in for.
_AWAY = (Unavailable, DeadlineExceeded)


class Edge:
    """What a process without a store has in its place; shared by the services of all callers.

    Entered before the doors, left after them.
    """

    def __init__(self, links: Mapping[str, Link], health: Health, settings: Settings) -> None:
        """`links` by the name of their address, in order of preference."""
        self.default_topic = settings.default_topic
        self.limits = settings.limits
        self._max_streams = settings.max_streams
        self._max_uncommitted_bytes = settings.max_uncommitted_bytes
        self._addresses = Addresses(links, health, patience=settings.core_attempt_seconds)
        self.attempts = Attempts(
            self._addresses, seconds=settings.core_seconds, hedge_seconds=settings.core_hedge_seconds
        )
        self.streams = Streams(self._addresses, self.attempts, most=settings.max_streams)
        self.lanes = Lanes(self._publish, settings.limits, max_bytes=settings.max_uncommitted_bytes)
        self.answers = memory.LastAnswers(seconds=settings.core_stale_seconds, max_bytes=_MEMORY_BYTES)

    async def __aenter__(self) -> Self:
        """Open the way to the core, which need not be there."""
        await self._addresses.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lanes.close()
        await self._addresses.__aexit__(kind, error, trace)

    async def wait(self) -> None:
        """Raise what a part of it died of; it never ends by itself."""
        await self._addresses.wait()

    def figures(self) -> Iterator[Figure]:
        yield from bound("streams", self.streams.open, self._max_streams)
        yield from bound("uncommitted_bytes", self.lanes.bytes, self._max_uncommitted_bytes)

    async def _publish(
        self, authorization: str | None, topic: str, messages: Sequence[Message], deadline: float
    ) -> tuple[Published, ...]:
        """Rejected means that it had no effect: a rejection is passed on only if no attempt before may have had one."""
        is_open = False

        async def question(core: MessageService) -> tuple[Published, ...]:
            nonlocal is_open
            was_open, is_open = is_open, True
            try:
                return await core.publish(topic, messages)
            except _REJECTED:
                is_open = was_open
                raise

        try:
            return await self.attempts.ask(question, authorization, until=deadline)
        except _REJECTED as error:
            if not is_open:
                raise
            message = f"the outcome is unknown: an attempt was lost, and the next one rejected: {error.detail}"
            raise Unavailable(message, retry_after=error.retry_after) from error


class RemoteService:
    """`MessageService` on a core in another process, for the bearer of one credential.

    A core that is slow, away or half away is met with deadlines, retries, other addresses, and for `get_data` and
    pages with the last answer, marked as stale. What was published is in the order of the calls, whatever happened.
    """

    def __init__(self, edge: Edge, authorization: str | None = None, refused: Refused = lambda _: None) -> None:
        self._edge = edge
        self._authorization = authorization
        self._caller = None if authorization is None else sha256(authorization.encode()).digest()
        self._refused = refused

    def on_behalf_of(self, authorization: str | None, refused: Refused = lambda _: None) -> Self:
        """The same core for another caller, whose credential goes with each call; the core judges it.

        Connections, breakers and budget are shared. Last answers are each caller's own, and forgotten once the core
        does not take the credential, or denies what was asked. `refused` is called whenever it does not take the
        credential.
        """
        return type(self)(self._edge, authorization, refused)

    def drain(self) -> None:
        """End streams and waiting reads of all callers; everything else goes on."""
        self._edge.streams.drain()

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        topic = self._edge.default_topic if topic is None else topic
        check_topic(topic)
        question = (self._caller, topic)
        try:
            answer = await self._read(lambda core: core.get_data(topic), question)
        except _AWAY:
            stale = self._edge.answers.data(question)
            if stale is None:
                raise
            return stale
        self._edge.answers.keep(question, answer)
        return answer

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        check_topic(topic)
        size = self._edge.limits.check_batch(messages)
        answer = self._edge.lanes.add(self._authorization, topic, messages, size, self._edge.attempts.deadline())
        answer.add_done_callback(self._published)
        return answer

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        check_topic(topic)
        return await self._read(lambda core: core.get_message(topic, offset))

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        check_topic(topic)
        check_limit(limit)
        check_wait(wait)
        question = (self._caller, (topic, after, limit))
        try:
            if wait:
                with self._judged(question):
                    page = await self._edge.streams.wait_for_page(
                        topic, after=after, limit=limit, wait=wait, authorization=self._authorization
                    )
            else:
                page = await self._read(lambda core: core.read_messages(topic, after=after, limit=limit), question)
        except _AWAY:
            stale = self._edge.answers.page(question)
            if stale is None or (wait and not stale.messages):  # who waits for more would ask again at once
                raise
            return stale
        self._edge.answers.keep(question, page)
        return page

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        check_topic(topic)
        with self._judged():
            async with aclosing(self._edge.streams.follow(topic, after, self._authorization)) as pages:
                async for page in pages:
                    yield page

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        check_limit(limit)
        if after:
            check_topic(after, "after")
        return await self._read(lambda core: core.list_topics(after=after, limit=limit))

    async def _read(self, question: Question[T], kept_as: memory.Question | None = None) -> T:
        attempts = self._edge.attempts
        with self._judged(kept_as):
            return await attempts.ask(question, self._authorization, until=attempts.deadline(), hedge=True)

    @contextmanager
    def _judged(self, kept_as: memory.Question | None = None) -> Iterator[None]:
        """What the core denies by now is not repeated either: the answer to that question, or to them all."""
        try:
            yield
        except Unauthenticated as error:
            self._refuse(error)
            raise
        except PermissionDenied:
            if kept_as is not None:
                self._edge.answers.forget(kept_as)
            raise

    def _published(self, answer: Future[tuple[Published, ...]]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Unauthenticated):
            self._refuse(error)

    def _refuse(self, error: Unauthenticated) -> None:
        self._edge.answers.forget_all(self._caller)
        self._refused(error)
