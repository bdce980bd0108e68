"""What plugs into what. Each Protocol states its guarantees; `tests/conformance` holds implementations to them."""

from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicHead, TopicPage


class Clock(Protocol):
    """Tells the time that messages are stamped with."""

    def now(self) -> datetime:
        """Aware, in UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class MessageService(Protocol):
    """The operations, the same behind every door.

    Raises only `core.errors.TriviumError`. Arguments are checked here, not in the doors. Any number of
    calls may run at once on one event loop; cancelling a call never undoes a publish that was begun.
    """

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        """The newest message of `topic` (None: the default topic), or the greeting while it has none."""

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        """Store all of `messages` or none; the answer is in their order and comes after a durable commit.

        Publishing begins at the call: calls made one after another on one loop keep that order in a
        topic, whether or not the caller awaits in between. Bad input raises at the call, and has no
        effect. A repeated identity answers with its first offset; with other content it is a `Conflict`.
        `Unavailable`, `DeadlineExceeded` and `Internal` leave the outcome unknown: repeat with the same id.
        """

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        """One message; `NotFound` if the topic has no such offset."""

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        """A page after the cursor `after`, in order, possibly shorter than `limit` (at most 1,000).

        An empty page is held open for up to `wait` seconds (at most 60) until a message comes.
        A cursor above the head is `InvalidArgument`. A topic without messages is empty, not missing.
        """

    def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        """Every message after the cursor, once and in order, from now on if it is None; it never ends by itself.

        The first page is empty and carries the cursor, so that a reader that is cut off at once can resume.
        Ends cleanly when the service drains. Close it (`aclose`) when done. The pace is the reader's: one
        that lags reads pages from disk, and holds one page in memory.
        """

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        """Topics that hold messages, by name, continuing after the name `after`."""


class MessageLog(Protocol):
    """The store: per topic a gapless, append-only sequence of messages at offsets 1, 2, 3, ...

    Commit order is offset order. What a read returns is durable. Used from one event loop.
    """

    def append(self, topic: str, messages: Sequence[Message], size: int) -> Future[tuple[Published, ...]]:
        """Store checked messages (`size` bytes in all) as `MessageService.publish` promises.

        What waits at the same time is committed as one group. Raises `Overloaded` at the call when the
        bytes that wait for a commit would pass their bound.
        """

    async def head(self, topic: str) -> int:
        """The offset of the newest message ever stored, 0 if there was none."""

    async def newest(self, topic: str) -> StoredMessage | None:
        """The message at the head."""

    async def read(self, topic: str, after: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        """Up to `limit` messages after `after`, at least one if there is any, else within `max_bytes`.

        None is above what `head` answers: a cursor taken from a message is never refused.
        """

    async def topics(self, after: str, limit: int) -> tuple[TopicHead, ...]:
        """Topics by name, after `after`."""

    def first_topics(self, most: int) -> Sequence[str]:
        """The names of the topics that were made first, from memory; the same ones after a restart."""

    async def beyond(self, topic: str, cursor: int) -> None:
        """Return once the head of `topic` is above `cursor`; at once if it is."""

    def watch(self, listener: Callable[[Mapping[str, int]], None]) -> Callable[[], None]:
        """Call `listener` with the new heads of each commit, on the loop, until the returned function is called.

        It is called before the publishers are answered, and must neither block nor raise.
        """

    def release(self) -> None:
        """Let everybody go who waits in `beyond`, now and from now on: the service is ending."""

    async def cursors(self, reader: str) -> Mapping[str, int] | None:
        """The cursors per topic that `reader` saved; None if it never saved any, not even an empty mapping."""

    def save_cursors(self, reader: str, cursors: Mapping[str, int]) -> None:
        """Write cursors with the next commit group, or within a second if none comes."""


class Undeliverable(Exception):
    """The broker did not take a message."""


class Unroutable(Undeliverable):
    """The broker has no queue for the message, or can't carry one as large."""


class BrokerPublisher(Protocol):
    """The way from the log to a broker."""

    async def ready(self) -> None:
        """Return once a message can be published: connected, and not blocked by the broker."""

    def publish(self, stored: StoredMessage) -> Future[None]:
        """Send one message; done once the broker holds it durably in at least one queue.

        Messages of one topic reach the broker in the order of the calls. Fails with `Unroutable` if no
        queue takes it or it is too large for the broker, with `Undeliverable` if the broker refuses it,
        does not confirm in time or is lost; it may have arrived all the same. Never raises at the call.
        The caller bounds what is in flight.
        """


class Transport(Protocol):
    """One door, or a part of one.

    Entering returns once it is listening; leaving closes it to new work and finishes what is in flight.
    """

    name: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def address(self) -> str:
        """Where it listens, for people: `http://127.0.0.1:8080`."""

    async def wait(self) -> None:
        """Return when it has ended, raise if it died."""
