"""Repeated attempts: when, where, and in which order their effects are."""

import asyncio
import weakref
from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from core import deadlines
from core.errors import Overloaded, PermissionDenied, TriviumError, Unavailable
from core.messages import Greeting, Message, Published, StoredMessage, new_message
from core.ports import MessageService
from tests.remote.conftest import PROTOCOLS, AnEdge, Core, door_of, start_edge, until


class Moody:
    """A service that refuses with these errors, one after another, before it does what it is asked."""

    def __init__(self, service: MessageService, *errors: TriviumError) -> None:
        self.asked: list[float] = []
        self.go = asyncio.Event()
        self.go.set()
        self._service = service
        self._errors = list(errors)

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        self.asked.append(asyncio.get_running_loop().time())
        await self.go.wait()
        self._refuse()
        return await self._service.get_data(topic)

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        self.asked.append(asyncio.get_running_loop().time())
        self._refuse()
        return self._service.publish(topic, messages)

    def refuse_with(self, *errors: TriviumError) -> None:
        """From now on, with these."""
        self._errors = list(errors)

    def _refuse(self) -> None:
        if self._errors:
            raise self._errors.pop(0)


async def edge_of(service: Any, protocol: str, stack: AsyncExitStack, **settings: Any) -> AnEdge:
    """An edge on a door of that service."""
    return await start_edge(stack, await door_of(service, protocol, stack), **settings)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [Overloaded, Unavailable])
async def test_a_core_that_says_when_is_asked_then(
    core: Core, stack: AsyncExitStack, protocol: str, kind: type[TriviumError]
) -> None:
    """`Retry-After` and RetryInfo are the least pause; the caller gets the answer of the second attempt."""
    moody = Moody(core.service, kind("not now", retry_after=0.5))
    edge = await edge_of(moody, protocol, stack)
    assert (await edge.service.publish("t", [new_message(b"x")]))[0].offset == 1
    first, second = moody.asked
    assert second - first >= 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_caller_that_can_not_wait_so_long_is_told(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """At once, with the core's own time; nothing is asked again."""
    moody = Moody(core.service, Overloaded("not now", retry_after=60))
    edge = await edge_of(moody, protocol, stack)
    async with asyncio.timeout(5):
        with pytest.raises(Overloaded, match="not now") as caught:
            await edge.service.get_data("t")
    assert caught.value.retry_after == 60
    assert len(moody.asked) == 1


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come without a pause of ours, which by chance may end just before the caller's time does."""
    monkeypatch.setattr("core.remote.attempts.pause", lambda _failures: 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", [Overloaded, Unavailable])
async def test_an_empty_budget_ends_the_attempts(core: Core, stack: AsyncExitStack, kind: type[TriviumError]) -> None:
    """What the core said last is the answer then, at once: nobody waits for an attempt that is not made."""
    moody = Moody(core.service, *(kind("not now", retry_after=0.0) for _ in range(100)))
    edge = await edge_of(moody, "grpc", stack)
    for _ in range(25):
        with pytest.raises(kind, match="not now"):
            await edge.service.get_data("t")
    assert len(moody.asked) <= 25 * 1.1 + 10
    moody.refuse_with(kind("much later", retry_after=100))
    async with asyncio.timeout(50), deadlines.until(asyncio.get_running_loop().time() + 200):
        with pytest.raises(kind, match="much later") as caught:
            await edge.service.get_data("t")
    assert caught.value.retry_after == 100


class Attributes(dict[str, str]):
    """Of a message, and can be watched, which it can't itself."""


@pytest.mark.usefixtures("at_once", "uncollected")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [Overloaded, Unavailable])
async def test_nothing_keeps_the_messages_of_a_publish_that_failed(
    core: Core, stack: AsyncExitStack, protocol: str, kind: type[TriviumError]
) -> None:
    """They may be large, and collections of garbage come seldom."""
    moody = Moody(core.service, kind("not now", retry_after=0.0), kind("much later", retry_after=60))
    edge = await edge_of(moody, protocol, stack)
    attributes = Attributes(region="eu")
    kept = weakref.ref(attributes)
    publishing = edge.service.publish("t", [new_message(b"x", attributes=attributes)])
    del attributes
    with pytest.raises(kind, match="much later"):
        await publishing
    del publishing
    await until(lambda: kept() is None)


@pytest.mark.usefixtures("at_once")
async def test_who_asks_for_too_much_spends_nobody_elses_retries(core: Core, stack: AsyncExitStack) -> None:
    """A crowd of one caller's `overloaded` leaves the retries of calls that found nobody there."""
    moody = Moody(core.service, *(Overloaded("not now", retry_after=0.0) for _ in range(100)))
    edge = await edge_of(moody, "grpc", stack)
    for _ in range(30):
        with pytest.raises(Overloaded):
            await edge.service.get_data("t")
    moody.refuse_with(Unavailable("not now", retry_after=0.0))
    assert isinstance(await edge.service.get_data("t"), Greeting)


async def test_a_hedged_read_asks_each_address_once(core: Core, stack: AsyncExitStack) -> None:
    """When both have failed the next attempt is a retry: after a pause, at the preferred one."""
    slow, quick = Moody(core.service), Moody(core.service)
    slow.go.clear()
    refusal = Unavailable("not now", retry_after=None)
    slow.refuse_with(refusal)
    quick.refuse_with(refusal)
    addresses = f"{await door_of(slow, 'grpc', stack)},{await door_of(quick, 'rest', stack)}"
    edge = await start_edge(stack, addresses, core_hedge_seconds=0.01)
    budget = edge.service._edge.attempts.budget
    reading = asyncio.create_task(edge.service.get_data("t"))
    await until(lambda: len(quick.asked) == 1)
    slow.go.set()
    assert isinstance(await reading, Greeting)
    assert (len(slow.asked), len(quick.asked)) == (2, 1)
    assert budget._left == pytest.approx(8.0)  # of ten: one for the hedge, one for the retry


@pytest.fixture
async def cuts(core: Core) -> AsyncIterator[asyncio.Task[None]]:
    """Cuts the links again and again."""

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.01)
            await core.grpc.cut()
            await core.rest.cut()

    task = asyncio.create_task(cut())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_publishes_keep_the_order_of_their_calls(
    core: Core, stack: AsyncExitStack, cuts: asyncio.Task[None]
) -> None:
    """While links are cut: what is acknowledged stands in the log once, in the order of the calls."""
    edge = await start_edge(stack, core.addresses)
    acknowledged: list[str] = []
    for batch in range(20):
        ids = [f"{batch}-{number}" for number in range(20)]
        calls = {id_: edge.service.publish("t", [new_message(b"x", id=id_)]) for id_ in ids}
        for id_, call in calls.items():
            try:
                await call
                acknowledged.append(id_)
            except Unavailable:
                continue
        await edge.until("core", "2 of 2")
    stored = [stored.message.id for stored in (await core.service.read_messages("t", limit=1000)).messages]
    assert len(stored) == len(set(stored))
    assert acknowledged
    assert [id_ for id_ in stored if id_ in set(acknowledged)] == acknowledged
    assert not cuts.done()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_rejection_after_a_lost_attempt_leaves_the_outcome_unknown(
    core: Core, stack: AsyncExitStack, protocol: str
) -> None:
    """Rejected means no effect, which nobody knows once an attempt before was lost; by itself it is passed on."""
    moody = Moody(core.service, Unavailable("lost", retry_after=0.01), PermissionDenied("not any more"))
    edge = await edge_of(moody, protocol, stack)
    with pytest.raises(Unavailable, match=r"outcome is unknown.*not any more"):
        await edge.service.publish("t", [new_message(b"1")])
    moody.refuse_with(PermissionDenied("not any more"))
    with pytest.raises(PermissionDenied):
        await edge.service.publish("t", [new_message(b"1")])
