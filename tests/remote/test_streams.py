"""Followers and waiting reads of an edge whose links are lost."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import pytest

from core.errors import InvalidArgument, Overloaded, Unavailable
from core.messages import Greeting, Page, StoredMessage, new_message
from core.ports import MessageService
from tests.remote.conftest import PROTOCOLS, AnEdge, Core, door_of, start_edge, until
from tests.remote.proxy import Proxy


async def publish(core: Core, count: int) -> None:
    for _ in range(count):
        await core.service.publish("t", [new_message(b"x")])


async def take(pages: AsyncGenerator[Page], count: int) -> list[int]:
    """The next offsets of a follower."""
    found: list[int] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += [stored.offset for stored in (await anext(pages)).messages]
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_follower_goes_on_at_its_cursor(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """Cut off again and again while messages come: each offset is seen once, in order."""
    edge = await start_edge(stack, core.address(protocol))
    async with aclosing(edge.service.follow("t", 0)) as pages:
        assert await anext(pages) == Page((), 0)
        seen: list[int] = []
        for _ in range(5):
            await publish(core, 20)
            await core.proxy(protocol).cut()
            await publish(core, 20)
            seen += await take(pages, 40)
    assert seen == list(range(1, 201))


async def test_a_follower_goes_on_at_the_next_address(core: Core, stack: AsyncExitStack) -> None:
    """When the one it is at goes away; through both protocols, and back."""
    edge = await start_edge(stack, core.addresses)
    async with aclosing(edge.service.follow("t", 0)) as pages:
        await anext(pages)
        seen = []
        for lost, other in ((core.grpc, core.rest), (core.rest, core.grpc), (core.grpc, core.rest)):
            await publish(core, 10)
            seen += await take(pages, 10)
            await lost.close()
            await publish(core, 10)
            seen += await take(pages, 10)
            await lost.open()
            assert other.connections
    assert seen == list(range(1, 61))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_follower_waits_for_a_core_that_is_away(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """It asks nothing of it meanwhile, and misses nothing; also one that began at `now`."""
    edge = await start_edge(stack, core.address(protocol))
    await publish(core, 3)
    async with aclosing(edge.service.follow("t")) as pages:
        assert await anext(pages) == Page((), 3)
        await core.proxy(protocol).close()
        await edge.notices("0 of 1")
        await publish(core, 4)
        await core.proxy(protocol).open()
        assert await take(pages, 4) == [4, 5, 6, 7]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nothing_keeps_the_page_of_a_follower_that_left(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """One that had lost its core: pages may be large, and collections of garbage come seldom."""
    edge = await start_edge(stack, core.address(protocol))
    await publish(core, 1)
    async with aclosing(edge.service.follow("t", 0)) as pages:
        await take(pages, 1)
        await core.proxy(protocol).close()
        going_on = asyncio.create_task(anext(pages))
        await edge.until("core", "0 of 1")
        going_on.cancel()
        await asyncio.wait({going_on})
    del going_on
    await until(lambda: not [one for one in gc.get_objects() if isinstance(one, Page) and one.messages])


async def test_following_fails_if_there_is_no_core_to_begin_with(core: Core, stack: AsyncExitStack) -> None:
    """The caller is told, and when to come back."""
    edge = await start_edge(stack, core.addresses)
    await core.grpc.close()
    await core.rest.close()
    for _ in range(2):  # before and after the breakers know
        with pytest.raises(Unavailable) as caught:
            await anext(edge.service.follow("t"))
        assert caught.value.retry_after
        await edge.notices("0 of 2")
    assert edge.streams == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_bad_cursor_is_refused_by_the_core(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """At once, as it would be without an edge."""
    edge = await start_edge(stack, core.address(protocol))
    with pytest.raises(InvalidArgument, match="above the head"):
        await anext(edge.service.follow("t", 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_waiting_read_survives_the_loss_of_its_link(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """It goes on waiting, and gets the message that comes."""
    edge = await start_edge(stack, core.address(protocol))
    waiting = asyncio.create_task(edge.service.read_messages("t", wait=30))
    await until(lambda: core.service.streams == 1)  # type: ignore[attr-defined]  # of the local service
    await core.proxy(protocol).cut()
    await publish(core, 1)
    async with asyncio.timeout(20):
        assert [stored.offset for stored in (await waiting).messages] == [1]


class Hanging:
    """A service whose waiting reads wait for ever, and tell how long they were to."""

    def __init__(self, service: MessageService) -> None:
        self.waits: list[float] = []
        self._service = service

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        return await self._service.get_data(topic)

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        self.waits.append(wait)
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_waiting_read_goes_on_for_what_is_left_of_its_time(core: Core, stack: AsyncExitStack) -> None:
    """Whoever is asked next is not asked for the whole of it again."""
    hanging = Hanging(core.service)
    address = await door_of(hanging, "grpc", stack)  # aiohttp sends a request again by itself, as it is
    proxy = await stack.enter_async_context(Proxy(address.removeprefix("grpc://")))
    edge = await start_edge(stack, f"grpc://{proxy.address}")
    clock = asyncio.get_running_loop().time
    began = clock()
    waiting = asyncio.create_task(edge.service.read_messages("t", wait=60))
    await until(lambda: len(hanging.waits) == 1 and clock() > began + 0.2)
    await proxy.cut()
    await until(lambda: len(hanging.waits) == 2)
    assert hanging.waits[1] < hanging.waits[0] - 0.1
    edge.service.drain()
    await waiting


async def test_a_waiting_read_leaves_an_address_that_others_found_silent(core: Core, stack: AsyncExitStack) -> None:
    """As a follower does: else it would wait there to the end of its time."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=0.3)
    waiting = asyncio.create_task(edge.service.read_messages("t", wait=60))
    await until(lambda: core.service.streams == 1)  # type: ignore[attr-defined]  # of the local service
    core.grpc.freeze()
    for _ in range(6):
        await edge.service.get_data("t")
    await publish(core, 1)
    async with asyncio.timeout(20):
        assert [stored.offset for stored in (await waiting).messages] == [1]


async def test_a_waiting_read_ends_when_its_time_is_up(core: Core, stack: AsyncExitStack) -> None:
    """Empty, a little after the time, however long that is; or at once if there is no core to wait at."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=1.0)
    async with asyncio.timeout(20):
        assert await edge.service.read_messages("t", wait=1.5) == Page((), 0)
    await core.grpc.close()
    await core.rest.close()
    await edge.notices("0 of 2")
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await edge.service.read_messages("t", wait=60)


async def test_a_frozen_stream_is_noticed(core: Core, stack: AsyncExitStack) -> None:
    """A new follower does not wait for an address that says nothing."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=0.3)
    core.grpc.freeze()
    await publish(core, 2)
    async with aclosing(edge.service.follow("t", 0)) as pages:
        assert await take(pages, 2) == [1, 2]


async def test_a_follower_leaves_an_address_that_others_found_silent(core: Core, stack: AsyncExitStack) -> None:
    """Its own connection would be missed much later."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=0.3)
    async with aclosing(edge.service.follow("t", 0)) as pages:
        await anext(pages)
        core.grpc.freeze()
        await publish(core, 2)
        for _ in range(6):
            await edge.service.get_data("t")
        async with asyncio.timeout(5):
            assert await take(pages, 2) == [1, 2]


async def held(edge: AnEdge) -> tuple[asyncio.Task[list[Page]], asyncio.Task[Page]]:
    """A follower and a waiting read, both waiting."""
    pages: list[Page] = []

    async def follow() -> list[Page]:
        async for page in edge.service.follow("t"):
            pages.append(page)  # noqa: PERF401 - each as it comes
        return pages

    tasks = asyncio.create_task(follow()), asyncio.create_task(edge.service.read_messages("t", wait=60))
    await until(lambda: edge.streams == 2 and bool(pages))
    return tasks


@pytest.mark.parametrize("is_away", [False, True])
async def test_draining_ends_them_cleanly(core: Core, stack: AsyncExitStack, is_away: bool) -> None:
    """Followers end, waiting reads are empty, new followers are told; also while the core is away."""
    edge = await start_edge(stack, core.addresses)
    follower, reader = await held(edge)
    await until(lambda: core.service.streams == 2)  # type: ignore[attr-defined]  # of the local service
    if is_away:
        await core.grpc.close()
        await core.rest.close()
        await edge.notices("0 of 2")
    edge.service.drain()
    async with asyncio.timeout(10):
        assert [page.messages for page in await follower] == [()]
        assert (await reader).messages == ()
        with pytest.raises(Unavailable, match="ending"):
            await anext(edge.service.follow("t"))
    assert edge.streams == 0


class Empty:
    """A service whose streams end before their first page."""

    def __init__(self) -> None:
        self.asked = 0

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        self.asked += 1
        return
        yield


async def test_a_stream_that_ends_before_it_began_is_no_beginning(stack: AsyncExitStack) -> None:
    """The caller is told; the address is not asked again and again."""
    empty = Empty()
    edge = await start_edge(stack, await door_of(empty, "grpc", stack))
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await anext(edge.service.follow("t"))
    assert empty.asked == 1


async def test_their_number_is_bounded(core: Core, stack: AsyncExitStack) -> None:
    """Past the bound a caller is told when to come back."""
    edge = await start_edge(stack, core.addresses, max_streams=2)
    tasks = await held(edge)
    with pytest.raises(Overloaded):
        await anext(edge.service.follow("t"))
    with pytest.raises(Overloaded):
        await edge.service.read_messages("t", wait=1)
    edge.service.drain()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_crowd_comes_back_without_a_gap(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """A hundred followers that are cut off at once all see each offset once."""
    edge = await start_edge(stack, core.address(protocol))

    begun = 0

    async def follow() -> list[int]:
        nonlocal begun
        async with aclosing(edge.service.follow("t", 0)) as pages:
            await anext(pages)
            begun += 1
            return await take(pages, 30)

    followers = [asyncio.create_task(follow()) for _ in range(100)]
    await publish(core, 10)
    await until(lambda: begun == 100)
    for _ in range(2):
        await core.proxy(protocol).cut()
        await publish(core, 10)
    for follower in followers:
        assert await follower == list(range(1, 31))
