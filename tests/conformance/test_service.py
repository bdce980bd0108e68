"""What `MessageService` promises, in process and through every door."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from core.errors import Conflict, InvalidArgument, NotFound, TooLarge, TriviumError
from core.messages import Greeting, Message, Published, StoredMessage, new_message
from tests.conformance.clients import Client

FULL = Message(
    id="order-1",
    source="urn:shop",
    type="order.placed",
    data=b'{"total":12.50}',
    content_type="application/octet-stream",
    subject="orders/1",
    time=datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
    key="customer-7",
    attributes={
        "dataschema": "urn:schema:order",
        "region": "eu",
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    },
)


def contents(stored: StoredMessage) -> tuple[object, ...]:
    """What a stored message says, but for whether its publisher gave the time, which no wire tells."""
    m = stored.message
    fields = (m.id, m.source, m.type, m.data, m.content_type, m.subject, m.key, dict(m.attributes))
    return (stored.topic, stored.offset, stored.time, *fields)


async def test_every_attribute_comes_back(client: Client) -> None:
    """A message is read as it was published, at the offset that publishing told."""
    (published,) = await client.publish("orders", [FULL])
    assert published == Published("orders", 1, "order-1", False)
    assert FULL.time is not None
    expected = contents(StoredMessage("orders", 1, FULL.time, FULL))
    assert contents(await client.get_message("orders", 1)) == expected
    page = await client.read_messages("orders", after=0, limit=10)
    assert [contents(one) for one in page.messages] == [expected]
    assert page.next == 1


async def test_get_data_greets_and_then_tells_the_newest(client: Client) -> None:
    """`get data` answers with the greeting, then with the newest message, text or not."""
    assert isinstance(await client.get_data("data"), Greeting)
    for data in (b"hello", b"\xff\x00"):
        (published,) = await client.publish("data", [new_message(data)])
        newest = await client.get_data("data")
        assert isinstance(newest, StoredMessage)
        assert (newest.message.data, newest.offset, newest.message.id) == (data, published.offset, published.id)


async def test_offsets_have_no_gaps(client: Client) -> None:
    """Concurrent batches to two topics get the offsets 1, 2, 3, ... of each, every batch in one piece."""
    batches = await asyncio.gather(
        *(client.publish(topic, [new_message(b"x") for _ in range(5)]) for topic in ("one", "two") for _ in range(1))
    )
    for batch in batches:
        assert [one.offset for one in batch] == [1, 2, 3, 4, 5]
    assert [one.offset for one in await client.publish("one", [new_message(b"y")])] == [6]


async def test_an_identity_has_one_effect(client: Client) -> None:
    """A repetition answers with the first offset, also inside its batch; other content is a conflict."""
    again = new_message(b"x", id="1", source="urn:a")
    first = await client.publish("t", [again, again])
    assert [(one.offset, one.duplicate) for one in first] == [(1, False), (1, True)]
    assert (await client.publish("t", [again])) == (Published("t", 1, "1", True),)
    with pytest.raises(Conflict, match=r"messages\[1\]\.id"):
        await client.publish("t", [new_message(b"new"), new_message(b"other", id="1", source="urn:a")])
    assert (await client.publish("t", [new_message(b"x", id="1", source="urn:b")]))[0].offset == 2
    assert (await client.publish("elsewhere", [again]))[0] == Published("elsewhere", 1, "1", False)


@pytest.mark.parametrize(
    ("bad", "error", "names"),
    [
        (new_message(b"x", id="i" * 256), InvalidArgument, "id"),
        (new_message(b"x", source="\n"), InvalidArgument, "source"),
        (new_message(b"x", content_type="nonsense"), InvalidArgument, "content_type"),
        (new_message(b"{", content_type="application/json"), InvalidArgument, "data"),
        (new_message(b"\xff", content_type="text/plain"), InvalidArgument, "data"),
        (new_message(b"x", attributes={"Upper": "x"}), InvalidArgument, "attributes"),
        (new_message(b"x", attributes={"long": "x" * 9000}), TooLarge, "attributes"),
        (new_message(b"x" * (1024 * 1024)), TooLarge, "data"),
    ],
)
async def test_one_bad_message_fails_its_batch(
    client: Client, bad: Message, error: type[TriviumError], names: str
) -> None:
    """The error names index and field, and nothing of the batch is stored."""
    with pytest.raises(error, match=rf"messages\[1\]\.{names}"):
        await client.publish("t", [new_message(b"good"), bad])
    assert isinstance(await client.get_data("t"), Greeting)


@pytest.mark.parametrize("topic", ["-", "a b", "é", "a" * 201])
async def test_a_topic_has_a_name(client: Client, topic: str) -> None:
    """A name that no topic can have is refused wherever it is used."""
    with pytest.raises(InvalidArgument, match="topic"):
        await client.publish(topic, [new_message(b"x")])
    with pytest.raises(InvalidArgument, match="topic"):
        await client.get_data(topic)
    with pytest.raises(InvalidArgument, match="topic"):
        await client.read_messages(topic, after=0, limit=1)


async def test_an_empty_topic_is_not_missing(client: Client) -> None:
    """Its page is empty; only a single message is not found."""
    page = await client.read_messages("nothing", after=0, limit=10)
    assert (page.messages, page.next) == ((), 0)
    with pytest.raises(NotFound, match="offset"):
        await client.get_message("nothing", 1)


async def test_bad_cursors_are_named(client: Client) -> None:
    """Negative, beyond the head or too many at once: `InvalidArgument` names what and the bound."""
    await client.publish("t", [new_message(b"x")])
    with pytest.raises(InvalidArgument, match=r"after.*above the head.*1"):
        await client.read_messages("t", after=2, limit=1)
    with pytest.raises(InvalidArgument, match="after"):
        await client.read_messages("t", after=-1, limit=1)
    with pytest.raises(InvalidArgument, match=r"limit.*1000"):
        await client.read_messages("t", after=0, limit=1001)
    with pytest.raises(InvalidArgument, match=r"wait.*60"):
        await client.read_messages("t", after=0, limit=1, wait=61)
    with pytest.raises(InvalidArgument, match="offset"):
        await client.get_message("t", 0)


async def test_pages_continue(client: Client) -> None:
    """`next` of a page continues after it, until there is nothing more."""
    await client.publish("t", [new_message(b"%d" % number) for number in range(25)])
    cursor, seen = 0, []
    while (page := await client.read_messages("t", after=cursor, limit=10)).messages:
        seen += [one.message.data for one in page.messages]
        cursor = page.next
    assert seen == [b"%d" % number for number in range(25)]


async def test_a_page_waits_for_a_message(client: Client) -> None:
    """An empty page is held open until something comes, and is empty when the time is up."""
    assert (await client.read_messages("t", after=0, limit=1, wait=0.05)).messages == ()
    waiting = asyncio.create_task(client.read_messages("t", after=0, limit=1, wait=60))
    await asyncio.sleep(0)
    await client.publish("other", [new_message(b"not this one")])
    await client.publish("t", [new_message(b"x")])
    assert [one.message.data for one in (await waiting).messages] == [b"x"]


async def test_topics_are_listed_by_name(client: Client) -> None:
    """Pages of topics with their heads, the last without a next."""
    for topic, count in (("b", 1), ("a", 2), ("c", 1)):
        await client.publish(topic, [new_message(b"x") for _ in range(count)])
    first = await client.list_topics(after="", limit=2)
    assert [(one.topic, one.head) for one in first.topics] == [("a", 2), ("b", 1)]
    assert first.next == "b"
    rest = await client.list_topics(after="b", limit=2)
    assert ([one.topic for one in rest.topics], rest.next) == (["c"], None)


async def test_a_follower_sees_everything_once(client: Client) -> None:
    """History first, then what comes, each offset once and in order."""
    if not client.follows:
        pytest.skip("this client follows by other means")
    await client.publish("t", [new_message(b"x") for _ in range(10)])
    seen = []
    async with aclosing(client.follow("t", 3)) as stored:
        async for one in stored:
            seen.append(one.offset)
            if one.offset == 10:
                await client.publish("t", [new_message(b"x") for _ in range(10)])
            if one.offset == 20:
                break
    assert seen == list(range(4, 21))
