"""The operations, good input and bad."""

import asyncio
import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import Conflict, InvalidArgument, NotFound, Overloaded, TooLarge
from core.limits import MAX_OFFSET
from core.messages import Greeting, Message, Page, Published, StoredMessage, new_message, weight
from core.ports import MessageLog
from core.service import PAGE_BYTES, LocalService
from core.settings import Settings
from core.stores.sqlite import SqliteLog
from tests.core.opening import offsets, some, until

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


async def publish(service: LocalService, topic: str, *messages: Message) -> tuple[Published, ...]:
    return await service.publish(topic, messages)


def one(**changes: Any) -> Message:
    """The message of one identity."""
    return new_message(changes.pop("data", b"data"), **{"id": "1", "source": "urn:s"} | changes)


async def following(pages: AsyncGenerator[Page], count: int) -> list[StoredMessage]:
    """The next `count` messages."""
    found: list[StoredMessage] = []
    while len(found) < count:
        page = await anext(pages)
        assert page.next == (page.messages[-1].offset if page.messages else page.next)
        found += page.messages
    return found


async def test_get_data_greets_until_there_is_a_message(service: LocalService) -> None:
    """Then it is the newest one, of the default topic or another."""
    assert await service.get_data() == Greeting("data", "Hello from Trivium")
    assert await service.get_data("other") == Greeting("other", "Hello from Trivium")
    await publish(service, "data", one(), one(id="2", data=b"newest"))
    newest = await service.get_data()
    assert isinstance(newest, StoredMessage)
    assert (newest.topic, newest.offset, newest.message.data) == ("data", 2, b"newest")


async def test_publishing_gives_offsets_from_1_per_topic(service: LocalService) -> None:
    """The answer is in the order of the messages."""
    assert await publish(service, "a", one(), one(id="2")) == (
        Published("a", 1, "1", False),
        Published("a", 2, "2", False),
    )
    assert await publish(service, "b", one()) == (Published("b", 1, "1", False),)


async def test_calls_keep_their_order_without_awaiting(service: LocalService) -> None:
    """Publishing begins at the call."""
    answers = [service.publish("a", some(1)) for _ in range(50)]
    assert [(await answer)[0].offset for answer in answers] == list(range(1, 51))


async def test_an_identity_again_answers_with_its_first_offset(service: LocalService) -> None:
    """A retry has no effect; what it says of its trace does not count, nor does a time that one of them lacks."""
    await publish(service, "a", one(attributes={"traceparent": "1"}))
    for again in (one(), one(attributes={"traceparent": "2", "baggage": "b"}), one(time=NOON)):
        assert await publish(service, "a", again) == (Published("a", 1, "1", True),)
    assert (await service.read_messages("a")).next == 1


async def test_an_identity_is_of_topic_source_and_id(service: LocalService) -> None:
    """Each of them makes it another."""
    for topic, message in (("a", one()), ("b", one()), ("a", one(source="urn:t")), ("a", one(id="2"))):
        assert not (await publish(service, topic, message))[0].duplicate


@pytest.mark.parametrize(
    "changes",
    [
        {"data": b"other"},
        {"time": NOON + timedelta(seconds=1)},
        {"key": "k"},
        {"attributes": {"a": "b"}},
        {"type": "t"},
        {"subject": "s"},
        {"content_type": "text/plain"},
    ],
)
async def test_an_identity_with_other_content_is_a_conflict(service: LocalService, changes: dict[str, Any]) -> None:
    """Nothing is stored, and the first one stands."""
    await publish(service, "a", one(time=NOON))
    with pytest.raises(Conflict, match="at offset 1") as caught:
        await publish(service, "a", one(**{"time": NOON} | changes))
    assert caught.value.field == "id"
    page = await service.read_messages("a")
    assert [stored.message for stored in page.messages] == [one(time=NOON)]


async def test_a_repeated_identity_within_a_batch_gets_the_first_ones_offset(service: LocalService) -> None:
    """Whether it is new or was stored before."""
    await publish(service, "a", one())
    answer = await publish(service, "a", one(id="2"), one(), one(id="2"), one(id="3"))
    assert [(each.offset, each.duplicate) for each in answer] == [(2, False), (1, True), (2, True), (3, False)]


async def test_a_conflict_within_a_batch_fails_it_whole_and_names_its_index(service: LocalService) -> None:
    """Nothing of it is stored, no offset is used up, and its topic does not come to be."""
    with pytest.raises(Conflict) as caught:
        await publish(service, "a", one(), one(id="2"), one(data=b"other"))
    assert caught.value.field == "messages[2].id"
    assert (await service.list_topics()).topics == ()
    assert (await publish(service, "a", one(data=b"other")))[0] == Published("a", 1, "1", False)


async def test_a_batch_that_fails_beside_others_takes_nothing_with_it(service: LocalService) -> None:
    """Units of one commit group stand alone; offsets stay without gaps."""
    first = service.publish("a", [one()])
    bad = service.publish("a", [one(id="2"), one(id="3"), one(data=b"other")])
    last = service.publish("a", [one(id="3", data=b"mine"), one(id="4")])
    assert [each.offset for each in (*await first, *await last)] == [1, 2, 3]
    with pytest.raises(Conflict):
        await bad
    assert [each.message.id for each in (await service.read_messages("a")).messages] == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("topic", "messages", "error"),
    [
        ("", [one()], InvalidArgument),
        ("a/b", [one()], InvalidArgument),
        ("a", [], InvalidArgument),
        ("a", [one(id="")], InvalidArgument),
        ("a", [one(), one(type="")], InvalidArgument),
        ("a", [one(data=b"x" * 1024 * 1024)], TooLarge),
        ("a", [one()] * 1001, TooLarge),
    ],
)
async def test_bad_input_raises_at_the_call(
    service: LocalService, topic: str, messages: list[Message], error: type[Exception]
) -> None:
    """Nothing was begun."""
    with pytest.raises(error):
        service.publish(topic, messages)
    assert (await service.list_topics()).topics == ()


async def test_get_message(service: LocalService) -> None:
    """What was published comes back with its place and time, whole."""
    message = one(time=NOON, key="k", subject="s", attributes={"a": "ü"}, content_type="text/plain", data="é".encode())
    await publish(service, "a", message)
    assert await service.get_message("a", 1) == StoredMessage("a", 1, NOON, message)


@pytest.mark.parametrize("offset", [2, MAX_OFFSET])
async def test_a_message_that_does_not_exist(service: LocalService, offset: int) -> None:
    """Only this is `not_found`."""
    await publish(service, "a", one())
    with pytest.raises(NotFound, match=str(offset)):
        await service.get_message("a", offset)
    with pytest.raises(NotFound):
        await service.get_message("b", 1)


@pytest.mark.parametrize(("topic", "offset", "field"), [("?", 1, "topic"), ("a", 0, "offset"), ("a", 2**53, "offset")])
async def test_get_message_refuses_what_can_not_be(service: LocalService, topic: str, offset: int, field: str) -> None:
    """With the name of the field."""
    with pytest.raises(InvalidArgument) as caught:
        await service.get_message(topic, offset)
    assert caught.value.field == field


async def test_pages_continue_at_next(service: LocalService) -> None:
    """To the end, where the page is empty and `next` stays."""
    await publish(service, "a", *some(250))
    cursor, seen = 0, []
    while (page := await service.read_messages("a", after=cursor)).messages:
        assert len(page.messages) <= 100
        seen += offsets(page.messages)
        cursor = page.next
    assert seen == list(range(1, 251))
    assert page == Page((), 250)


async def test_a_page_is_bounded_in_bytes(service: LocalService) -> None:
    """An answer fits what gRPC clients take."""
    for _ in range(8):
        await publish(service, "a", *some(1, b"x" * 900_000))
    page = await service.read_messages("a")
    assert len(page.messages) == PAGE_BYTES // 901_000
    assert (await service.read_messages("a", after=page.next)).messages[0].offset == page.next + 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"topic": "?"}, "topic"),
        ({"after": -1}, "after"),
        ({"after": 2}, "after"),
        ({"after": 2**53}, "after"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"wait": -0.1}, "wait"),
        ({"wait": 60.1}, "wait"),
        ({"wait": math.nan}, "wait"),
    ],
)
async def test_read_messages_refuses_bad_input(service: LocalService, arguments: dict[str, Any], field: str) -> None:
    """With the name of the field."""
    await publish(service, "a", one())
    with pytest.raises(InvalidArgument) as caught:
        await service.read_messages(**{"topic": "a"} | arguments)
    assert caught.value.field == field


async def test_a_cursor_above_the_head_is_told_the_head(service: LocalService) -> None:
    """Also on a topic that is empty, and when following."""
    await publish(service, "a", one())
    with pytest.raises(InvalidArgument, match="which is 1"):
        await service.read_messages("a", after=2)
    with pytest.raises(InvalidArgument, match="which is 0"):
        await service.read_messages("b", after=1)
    with pytest.raises(InvalidArgument, match="which is 1"):
        await anext(service.follow("a", 2))


async def test_a_topic_without_messages_is_empty(service: LocalService) -> None:
    """Not missing."""
    assert await service.read_messages("a") == Page((), 0)


async def test_a_wait_ends_with_the_first_message(service: LocalService) -> None:
    """Also on a topic that did not exist."""
    read = asyncio.create_task(service.read_messages("a", wait=60))
    await until(lambda: service.streams == 1)
    await publish(service, "a", one())
    assert offsets((await read).messages) == [1]
    assert service.streams == 0


async def test_a_wait_ends_empty(service: LocalService) -> None:
    """When its time is over; without one it does not begin."""
    assert await service.read_messages("a", wait=0.01) == Page((), 0)
    assert await service.read_messages("a") == Page((), 0)


async def test_a_wait_is_not_held_if_there_is_something(service: LocalService) -> None:
    """It would be no page."""
    await publish(service, "a", one())
    assert offsets((await service.read_messages("a", wait=60)).messages) == [1]


async def test_following_begins_with_the_cursor_and_goes_on_live(service: LocalService) -> None:
    """Every message once and in order, from disk or memory."""
    await publish(service, "a", *some(3))
    pages = service.follow("a", 1)
    assert await anext(pages) == Page((), 1)
    assert offsets(await following(pages, 2)) == [2, 3]
    more = asyncio.create_task(following(pages, 5))
    for _ in range(5):
        await publish(service, "a", *some(1))
    assert offsets(await more) == [4, 5, 6, 7, 8]
    await pages.aclose()
    assert service.streams == 0


async def test_following_without_a_cursor_is_from_now_on(service: LocalService) -> None:
    """The first page says where that is."""
    await publish(service, "a", *some(3))
    pages = service.follow("a")
    assert await anext(pages) == Page((), 3)
    await publish(service, "a", *some(1))
    assert offsets(await following(pages, 1)) == [4]
    await pages.aclose()


async def test_followers_that_lag_hold_little_together(log: SqliteLog, settings: Settings) -> None:
    """A few get large pages, of many each gets a small one; all of them get every message."""
    service = LocalService(log, settings.limits, default_topic="data", greeting="", max_streams=1000)
    await publish(service, "a", *some(700, b"x" * 2000))
    followers: list[AsyncGenerator[Page]] = []
    for count, most in [(1, 2**20), (64, 2**19), (128, 2**18), (1000, 2**18)]:
        while len(followers) < count:
            followers.append(service.follow("a", 0))
            await anext(followers[-1])
        page = await anext(followers[-1])
        assert most * 0.9 < sum(weight(stored.message) for stored in page.messages) <= most
        rest = await following(followers[-1], 700 - len(page.messages))
        assert offsets([*page.messages, *rest]) == list(range(1, 701))
    for each in followers:
        await each.aclose()


async def test_streams_and_waits_are_bounded_together(log: SqliteLog, settings: Settings) -> None:
    """One more is told to come later, and its place is free again once another has gone."""
    service = LocalService(log, settings.limits, default_topic="data", greeting="", max_streams=2)
    pages = service.follow("a")
    await anext(pages)
    read = asyncio.create_task(service.read_messages("a", wait=60))
    await until(lambda: service.streams == 2)
    with pytest.raises(Overloaded) as caught:
        await service.read_messages("a", wait=1)
    assert caught.value.retry_after
    with pytest.raises(Overloaded):
        await anext(service.follow("a"))
    assert await service.read_messages("a") == Page((), 0)
    read.cancel()
    await asyncio.wait({read})
    other = service.follow("a")
    await anext(other)
    for each in (pages, other):
        await each.aclose()
    assert service.streams == 0


async def test_draining_ends_streams_and_waits_and_nothing_else(service: LocalService) -> None:
    """Publishing goes on; what comes later ends at once."""
    pages = service.follow("a")
    await anext(pages)
    next_page = asyncio.create_task(anext(pages, None))
    read = asyncio.create_task(service.read_messages("a", wait=60))
    await until(lambda: service.streams == 2)
    service.drain()
    assert await next_page is None
    assert await read == Page((), 0)
    assert (await publish(service, "a", one()))[0].offset == 1
    assert (await service.read_messages("b", wait=60)).messages == ()
    assert [page async for page in service.follow("a", 0)] == [Page((), 0)]


async def test_topics_are_listed_by_name(service: LocalService) -> None:
    """With their heads, in pages that continue after a name."""
    for name in ("b", "a", "c", "B", "a.b"):
        await publish(service, name, *some(2))
    page = await service.list_topics(limit=2)
    assert [(each.topic, each.head) for each in page.topics] == [("B", 2), ("a", 2)]
    assert page.next == "a"
    page = await service.list_topics(after="a", limit=3)
    assert [each.topic for each in page.topics] == ["a.b", "b", "c"]
    assert page.next is None
    assert (await service.list_topics(after="c")).topics == ()


@pytest.mark.parametrize(
    ("arguments", "field"), [({"after": "?"}, "after"), ({"limit": 0}, "limit"), ({"limit": 1001}, "limit")]
)
async def test_list_topics_refuses_bad_input(service: LocalService, arguments: dict[str, Any], field: str) -> None:
    """With the name of the field."""
    with pytest.raises(InvalidArgument) as caught:
        await service.list_topics(**arguments)
    assert caught.value.field == field


async def test_get_data_refuses_a_bad_topic(service: LocalService) -> None:
    """An empty name is not the default topic."""
    with pytest.raises(InvalidArgument):
        await service.get_data("")


async def test_cancelling_a_publish_does_not_undo_it(service: LocalService, log: MessageLog) -> None:
    """The caller has gone; the message is there."""
    task = asyncio.ensure_future(service.publish("a", [one()]))
    task.cancel()
    await publish(service, "a", one(id="2"))
    assert await log.head("a") == 2
