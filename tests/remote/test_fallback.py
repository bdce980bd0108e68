"""What callers of an edge get while its core is half away, or away."""

import asyncio
from contextlib import AsyncExitStack

import grpc.aio
import httpx2
import pytest

from core import deadlines
from core.errors import Conflict, DeadlineExceeded, NotFound, Unavailable
from core.health import State
from core.messages import Greeting, StaleMessage, StalePage, StoredMessage, new_message
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.remote.conftest import PROTOCOLS, Core, start_edge, until


async def away(core: Core) -> None:
    """Refuse at both addresses."""
    await core.grpc.close()
    await core.rest.close()


@pytest.mark.parametrize("lost", PROTOCOLS)
async def test_the_other_protocol_takes_over(core: Core, stack: AsyncExitStack, lost: str) -> None:
    """With one port gone no call fails; its breaker opens, is told, and closes once the port is back."""
    edge = await start_edge(stack, core.addresses)
    await core.proxy(lost).close()
    for number in range(30):
        assert (await edge.service.publish("t", [new_message(b"x")]))[0].offset == number + 1
        assert isinstance(await edge.service.get_data("t"), StoredMessage)
    name = f"core {core.address(lost)}"
    await edge.until(name, "open")
    assert edge.health.checks[name].state is State.DEGRADED
    assert edge.health.checks["core"].detail == "1 of 2 addresses answer"
    assert edge.health.ready
    await core.proxy(lost).open()
    await edge.until(name, "closed")
    assert edge.health.checks["core"].state is State.OK


async def test_addresses_are_preferred_in_their_order(core: Core, stack: AsyncExitStack) -> None:
    """The first one gets all the calls, as long as it answers."""
    edge = await start_edge(stack, f"{core.address('rest')},{core.address('grpc')}")
    await core.grpc.close()
    for _ in range(20):
        await edge.service.get_data("t")
    assert edge.health.checks[f"core {core.address('rest')}"].state is State.OK


async def test_an_answer_of_the_core_is_not_asked_for_twice(core: Core, stack: AsyncExitStack) -> None:
    """A refusal is an answer: no other address is tried, nothing is spent, no breaker hears of it."""
    edge = await start_edge(stack, core.addresses)
    await edge.service.publish("t", [new_message(b"x", id="1")])
    budget = edge.service._edge.attempts.budget
    before = budget._left
    for _ in range(10):
        with pytest.raises(NotFound):
            await edge.service.get_message("t", 17)
        with pytest.raises(Conflict):
            await edge.service.publish("t", [new_message(b"other", id="1")])
    assert budget._left == before
    assert edge.health.checks["core"].state is State.OK


async def test_last_answers_are_repeated_and_marked(core: Core, stack: AsyncExitStack) -> None:
    """`get data` and pages that were asked before, with their age; anything else is `unavailable`."""
    edge = await start_edge(stack, core.addresses)
    await core.service.publish("t", [new_message(b"x")])
    newest, page = await edge.service.get_data("t"), await edge.service.read_messages("t")
    assert not isinstance(newest, StaleMessage)
    await away(core)
    stale = await edge.service.get_data("t")
    assert isinstance(stale, StaleMessage)
    assert isinstance(newest, StoredMessage)
    assert (stale.offset, stale.message) == (newest.offset, newest.message)
    assert 0 <= stale.age < 30
    stale_page = await edge.service.read_messages("t")
    assert isinstance(stale_page, StalePage)
    assert (stale_page.messages, stale_page.next) == (page.messages, page.next)
    for asked in (
        edge.service.get_data("u"),
        edge.service.read_messages("t", after=1),
        edge.service.get_message("t", 1),
        edge.service.list_topics(),
    ):
        with pytest.raises(Unavailable) as caught:
            await asked
        assert caught.value.retry_after


async def test_last_answers_belong_to_whoever_asked(core: Core, stack: AsyncExitStack) -> None:
    """What one credential may read is not told to another, nor to callers without one."""
    edge = await start_edge(stack, core.addresses)
    anna = edge.service.on_behalf_of("Bearer anna")
    await anna.get_data("t")
    await anna.read_messages("t")
    assert "anna" not in repr(vars(edge.service._edge.answers))  # nor is the credential kept with them
    await away(core)
    assert isinstance(await anna.get_data("t"), Greeting)
    for other in (edge.service, edge.service.on_behalf_of("Bearer bert")):
        with pytest.raises(Unavailable):
            await other.get_data("t")
        with pytest.raises(Unavailable):
            await other.read_messages("t")


async def test_old_answers_are_not_repeated(core: Core, stack: AsyncExitStack) -> None:
    """The bound is a setting; 0 repeats nothing."""
    edge = await start_edge(stack, core.addresses, core_stale_seconds=0.0)
    await edge.service.get_data("t")
    await away(core)
    with pytest.raises(Unavailable):
        await edge.service.get_data("t")


async def test_the_doors_tell_that_an_answer_is_stale(core: Core, stack: AsyncExitStack) -> None:
    """`Age` and `Warning: 110` at REST, `stale` with its age at gRPC; fresh answers have neither."""
    edge = await start_edge(stack, core.addresses)
    await core.service.publish("t", [new_message(b"hello")])
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))
    stub = MessagesStub(await stack.enter_async_context(grpc.aio.insecure_channel(edge.doors["grpc"].address)))
    paths = ("/api/data?topic=t", "/api/data?topic=empty", "/api/topics/t/messages")
    for is_stale in (False, True):
        for path in paths:
            answer = await http.get(path)
            assert answer.status_code == 200
            assert answer.headers.get("warning") == ('110 - "Response is Stale"' if is_stale else None)
            assert ("age" in answer.headers) is is_stale
        for topic in ("t", "empty"):
            data = await stub.GetData(pb.GetDataRequest(topic=topic))
            page = await stub.ReadMessages(pb.ReadMessagesRequest(topic=topic))
            if not is_stale and topic == "t":
                assert data.message.data == page.messages[0].data == b"hello"
            if is_stale and topic == "t":
                assert 0 <= data.stale.age_seconds < 30
                assert 0 <= page.stale.age_seconds < 30
            assert data.HasField("stale") is page.HasField("stale") is is_stale
        await away(core)


async def test_publishing_is_refused_while_the_core_is_away(core: Core, stack: AsyncExitStack) -> None:
    """With when to repeat, at every door; nothing is kept that the core would get later."""
    edge = await start_edge(stack, core.addresses)
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))
    await away(core)
    answer = await http.post("/api/topics/t/messages", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(Unavailable):
        await edge.service.publish("t", [new_message(b"x")])
    await core.grpc.open()
    await core.rest.open()
    await edge.until("core", "2 of 2")
    assert isinstance(await edge.service.get_data("t"), Greeting)
    assert edge.service._edge.lanes.bytes == 0


async def test_an_address_that_does_not_answer_is_left_in_time(core: Core, stack: AsyncExitStack) -> None:
    """A frozen address costs a call no more than one attempt; the next one answers."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=0.3)
    core.grpc.freeze()
    for number in range(8):
        assert (await edge.service.publish("t", [new_message(b"x")]))[0].offset == number + 1
    await edge.until(f"core {core.address('grpc')}", "open")
    core.grpc.thaw()
    await edge.until(f"core {core.address('grpc')}", "closed")


async def test_no_call_outlives_its_deadline(core: Core, stack: AsyncExitStack) -> None:
    """A caller's own, or the default; who was in a hurry is no reason to distrust an address."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=20.0, core_seconds=0.2)
    core.grpc.freeze()
    clock = asyncio.get_running_loop().time
    began = clock()
    for asked in (edge.service.get_message("t", 1), edge.service.publish("t", [new_message(b"x")])):
        with pytest.raises(DeadlineExceeded):
            await asked
    with pytest.raises(DeadlineExceeded):
        async with deadlines.until(clock() + 0.1):
            await edge.service.get_message("t", 1)
    assert clock() - began < 5
    assert edge.health.checks["core"].state is State.OK


async def test_a_caller_at_a_door_may_be_in_a_hurry(core: Core, stack: AsyncExitStack) -> None:
    """gRPC's deadline, and `Prefer: wait` at REST, end a call that the core does not answer."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=60.0, core_seconds=60.0)
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))
    stub = MessagesStub(await stack.enter_async_context(grpc.aio.insecure_channel(edge.doors["grpc"].address)))
    core.grpc.freeze()
    answer = await http.get("/api/data?topic=t", headers={"prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetData(pb.GetDataRequest(topic="t"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_slow_read_is_hedged_if_that_is_set(core: Core, stack: AsyncExitStack) -> None:
    """The next address answers long before the first one would have been given up."""
    edge = await start_edge(
        stack, core.addresses, core_attempt_seconds=60.0, core_seconds=60.0, core_hedge_seconds=0.05
    )
    core.grpc.freeze()
    async with asyncio.timeout(10):
        assert isinstance(await edge.service.get_data("t"), Greeting)
    tasks = {task for task in asyncio.all_tasks() if task.get_name() == "hedged read"}
    assert not tasks


async def test_a_trickling_link_is_left_for_a_good_one(core: Core, stack: AsyncExitStack) -> None:
    """An address that sends a few bytes a second does not answer in time either."""
    edge = await start_edge(stack, core.addresses, core_attempt_seconds=0.5)
    await core.service.publish("t", [new_message(b"x" * 200_000)])
    core.grpc.trickle(1000)
    newest = await edge.service.get_data("t")
    assert isinstance(newest, StoredMessage)
    assert len(newest.message.data) == 200_000


async def test_the_number_of_connections_stays_small(core: Core, stack: AsyncExitStack) -> None:
    """A thousand calls share one gRPC connection, and as many HTTP connections as run at once, no more."""
    edge = await start_edge(stack, core.addresses)
    await asyncio.gather(*(edge.service.get_data("t") for _ in range(1000)))
    assert core.grpc.connections == 1
    other = await start_edge(stack, core.address("rest"))
    for _ in range(20):
        await asyncio.gather(*(other.service.get_data("t") for _ in range(10)))
    assert core.rest.connections <= 15


async def test_stopping_the_edge_leaves_nothing_behind(core: Core) -> None:
    """Its tasks and connections end with it, also while the core does not answer."""
    async with AsyncExitStack() as stack:
        edge = await start_edge(stack, core.addresses)
        core.grpc.freeze()
        lost = edge.service.publish("t", [new_message(b"x")])
        await until(lambda: bool(edge.service._edge.lanes._tasks))
    assert lost.done()
    core.grpc.thaw()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not any(name.startswith(("watch", "remote-lane")) for name in names)
    assert lost.exception() is not None
