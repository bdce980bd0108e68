"""The inbox on a real RabbitMQ, fed by aio-pika."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity
from cloudevents.core.bindings.rabbitmq import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from core.errors import Internal, Overloaded, TriviumError, Unavailable
from core.gate import OpenGate
from core.health import Health, State
from core.limits import Limits
from core.messages import StoredMessage
from core.service import LocalService
from core.settings import Settings
from core.stores.sqlite import SqliteLog
from tests.amqp.conftest import acknowledged, take, until, until_state
from tests.amqp.services import Scripted
from tests.core.opening import alive
from transports.amqp import items, mapping
from transports.amqp.channel import Channel
from transports.amqp.connection import Broker
from transports.amqp.fates import FATES
from transports.amqp.inbox import Inbox
from transports.amqp.items import Item
from transports.amqp.topology import Topology
from transports.amqp.window import Window


async def send(client: AbstractChannel, names: Topology, topic: str, *messages: Message) -> None:
    """Publish, each confirmed by RabbitMQ."""
    exchange = await client.get_exchange(names.inbox, ensure=False)
    await asyncio.gather(*(exchange.publish(message, topic) for message in messages))


async def stored(log: SqliteLog, topic: str, count: int) -> list[StoredMessage]:
    """The first messages of a topic, once they are there."""
    await log.beyond(topic, count - 1)
    found: list[StoredMessage] = []
    while len(found) < count:
        found += await log.read(topic, len(found), count, 1 << 30)
    return found


def numbered(count: int, start: int = 0) -> list[Message]:
    return [Message(b"%d" % number, message_id=str(number)) for number in range(start, start + count)]


@pytest.fixture
def scripted(log: SqliteLog, settings: Settings) -> Scripted:
    service = Scripted.of(log, settings)
    service.start()
    return service


@asynccontextmanager
async def batch(inbox: Inbox, scripted: Scripted, client: AbstractChannel, names: Topology) -> AsyncIterator[None]:
    """What is sent within it to the inbox, 5 messages, is its second batch; the first has one message."""
    scripted.gate.clear()
    await send(client, names, "orders", Message(b"first", message_id="first"))
    await until(lambda: len(scripted.batches) == 1)
    yield
    await until(lambda: inbox._taken == 6)
    scripted.gate.set()


@pytest.fixture
async def failing(
    broker: Broker, scripted: Scripted, settings: Settings, health: Health, stack: AsyncExitStack
) -> Scripted:
    """The service behind an inbox that is open."""
    await stack.enter_async_context(Inbox(broker, OpenGate(scripted, settings), settings, health))
    return scripted


@pytest.fixture
async def held(broker: Broker, scripted: Scripted, settings: Settings, health: Health, stack: AsyncExitStack) -> Inbox:
    """An inbox whose service can hold publications back."""
    return await stack.enter_async_context(Inbox(broker, OpenGate(scripted, settings), settings, health))


async def test_a_message_is_stored_with_its_attributes(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """What a plain client sends is in the log, its properties as attributes."""
    await send(client, names, "orders", Message(b"hello", content_type="text/plain", message_id="1", type="t"))
    [one] = await stored(log, "orders", 1)
    message = one.message
    assert (message.id, message.type, message.data, message.content_type) == ("1", "t", b"hello", "text/plain")
    assert message.source == "urn:trivium"


@pytest.mark.parametrize("mode", [to_binary, to_structured])
async def test_the_cloudevents_sdk_publishes(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog, mode: Any
) -> None:
    """Both modes of the SDK's RabbitMQ binding."""
    event = CloudEvent({"id": "1", "source": "/sdk", "type": "t", "datacontenttype": "text/plain"}, "hello")
    sent = mode(event, JSONFormat())
    await send(client, names, "orders", Message(sent.body, headers=sent.headers, content_type=sent.content_type))
    [one] = await stored(log, "orders", 1)
    assert (one.message.id, one.message.source, one.message.data) == ("1", "/sdk", b"hello")


async def test_the_order_of_arrival_holds(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """Thousands of messages, several prefetches, are stored in the order in which they were sent."""
    await send(client, names, "orders", *numbered(3000))
    assert [int(one.message.data) for one in await stored(log, "orders", 3000)] == list(range(3000))
    assert log.groups.groups < 1500


async def test_a_repeated_identity_is_stored_once(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """The repeat is acknowledged, and has no effect."""
    await send(client, names, "orders", *numbered(3), *numbered(4))
    assert [one.message.id for one in await stored(log, "orders", 4)] == ["0", "1", "2", "3"]
    assert await log.head("orders") == 4


DEAD = [
    ("invalid_argument", "orders", {"headers": {"ce-x": [1]}}, b"x", "ce-x"),
    ("invalid_argument", "orders", {"content_type": "application/json"}, b"{", "data"),
    ("invalid_argument", "orders", {"content_type": "application/cloudevents+json"}, b'{"id": ""}', "specversion"),
    ("invalid_argument", "no topic", {}, b"x", "topic"),
    ("invalid_argument", "", {}, b"x", "topic"),
    ("conflict", "orders", {"message_id": "taken"}, b"other", "id"),
    ("too_large", "orders", {}, b"x" * (1024 * 1024 + 1), "data"),
    ("too_large", "orders", {"content_type": "application/cloudevents+json"}, b"[" * (8 * 1024 * 1024 + 1), "body"),
    ("unsupported_media_type", "orders", {"content_encoding": "gzip"}, b"x", "content_encoding"),
]


@pytest.mark.parametrize(("code", "key", "properties", "body", "field"), DEAD)
async def test_what_can_never_be_stored_is_a_dead_letter(
    inbox: Inbox,
    client: AbstractChannel,
    names: Topology,
    log: SqliteLog,
    code: str,
    key: str,
    properties: dict[str, Any],
    body: bytes,
    field: str,
) -> None:
    """It carries the reason and is otherwise as it came; its neighbours are stored."""
    properties = {"headers": {}, "message_id": "bad", **properties}
    bad = Message(body, **properties, correlation_id="c")
    await send(client, names, "orders", Message(b"first", message_id="taken"))
    await send(client, names, key, bad)
    await send(client, names, "orders", Message(b"last"))
    assert [one.message.data for one in await stored(log, "orders", 2)] == [b"first", b"last"]
    [dead] = await take(client, names.dead)
    assert dead.headers["x-trivium-error-code"] == code
    assert str(dead.headers["x-trivium-error-detail"]).startswith(f"{field}: ")
    assert dead.headers["x-trivium-exchange"] == names.inbox
    assert dead.headers["x-trivium-routing-key"] == key == dead.routing_key
    assert (dead.body, dead.correlation_id, dead.message_id) == (body, "c", properties["message_id"])
    assert all(dead.headers[name] == value for name, value in bad.headers.items())


#: A NaN too breaks pika's decoder, but already RabbitMQ 3.10 ends the connection that publishes one.
POISON = {
    "a time in milliseconds": b"T" + struct.pack(">Q", 1_764_000_000_000_000),
    "a time beyond all": b"T" + b"\xff" * 8,
}


@pytest.mark.parametrize("value", POISON.values(), ids=POISON)
async def test_headers_that_break_pika_do_not_block_the_queue(
    inbox: Inbox,
    broker: Broker,
    client: AbstractChannel,
    names: Topology,
    log: SqliteLog,
    health: Health,
    value: bytes,
) -> None:
    """The message is a dead letter of invalid_argument, byte for byte, and what comes later is stored."""
    entry = b"\x04when" + value
    await send_raw(broker, names, entry)
    await send(client, names, "orders", Message(b"later"))
    [later] = await stored(log, "orders", 1)
    assert later.message.data == b"later"
    received = await raw_message(broker, names.dead)
    assert received.body == b"poison"
    assert entry in received.properties
    assert b"invalid_argument" in received.properties
    assert health.checks["broker"].state is State.OK


async def test_what_is_inside_a_table_breaks_nothing(
    inbox: Inbox, broker: Broker, names: Topology, log: SqliteLog
) -> None:
    """Nobody asks for it, so the message is stored."""
    await send_raw(broker, names, b"\x04whenF" + struct.pack(">I", 11) + b"\x01aT" + b"\xff" * 8)
    assert (await stored(log, "orders", 1))[0].message.data == b"poison"


async def send_raw(broker: Broker, names: Topology, header: bytes) -> None:
    """Publish a message with a header that no client would encode."""
    connection = broker.intake._connection
    assert connection is not None
    channel = await Channel.open(connection)
    raw = b"\x20\x00" + struct.pack(">I", len(header)) + header
    channel.publish(names.inbox, "orders", raw, b"poison")
    await channel.close()


async def raw_message(broker: Broker, queue: str) -> Any:
    """The first message of a queue, its properties undecoded: no client can decode them."""
    connection = broker.intake._connection
    assert connection is not None
    channel = await Channel.open(connection)
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    await channel.consume(queue, 1, found.set_result)
    delivery = await found
    channel.ack(delivery.tag)
    await channel.close()
    return delivery


async def test_headers_as_large_as_a_frame(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """Headers that fill the frame leave no room for ours: the dead letter goes without them."""
    # found by halving: what aio-pika can send, but we could not add a reason to
    big = Message(b"body", headers={"ce-x": [1], "big": "x" * (131_072 - 8 - 12 - 80)})
    await send(client, names, "orders", big, Message(b"last"))
    assert (await stored(log, "orders", 1))[0].message.data == b"last"
    [dead] = await take(client, names.dead)
    assert dead.body == b"body"
    assert dead.headers["x-trivium-error-code"] == "invalid_argument"


async def test_dead_letters_do_not_expire_or_fail_for_their_user(
    inbox: Inbox, client: AbstractChannel, names: Topology
) -> None:
    """`expiration` is left out, and so is `user_id`, which RabbitMQ checks."""
    await send(client, names, "no topic", Message(b"x", expiration=3600, user_id="guest", app_id="app"))
    [dead] = await take(client, names.dead)
    assert (dead.expiration, dead.user_id, dead.app_id) == (None, None, "app")


async def test_a_batch_of_one_topic_is_one_publication(
    held: Inbox, scripted: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """It is stored in the order of arrival."""
    async with batch(held, scripted, client, names):
        await send(client, names, "orders", *numbered(5))
    assert [one.message.id for one in await stored(log, "orders", 6)] == ["first", "0", "1", "2", "3", "4"]
    assert scripted.batches == [1, 5]


async def test_a_message_that_fails_its_batch_costs_the_others_nothing(
    held: Inbox, scripted: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """It alone is a dead letter; the others are stored in their order."""
    async with batch(held, scripted, client, names):
        await send(client, names, "orders", *numbered(2), Message(b"other", message_id="first"), *numbered(2, start=2))
    assert [one.message.id for one in await stored(log, "orders", 5)] == ["first", "0", "1", "2", "3"]
    [dead] = await take(client, names.dead)
    assert (dead.body, dead.headers["x-trivium-error-code"]) == (b"other", "conflict")
    assert str(dead.headers["x-trivium-error-detail"]).startswith("id: ")
    assert scripted.batches == [1, 5, 1, 1, 1, 1, 1]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(("key", "properties", "body"), [case[1:4] for case in DEAD])
async def test_nothing_of_a_dead_letter_waits_for_a_collection(
    held: Inbox,
    scripted: Scripted,
    client: AbstractChannel,
    names: Topology,
    key: str,
    properties: dict[str, Any],
    body: bytes,
) -> None:
    """Alone or in a batch: a collection comes seldom, and gibibytes of large messages could wait for it."""
    before = alive(Item), alive(TriviumError)
    bad = Message(body, **{"headers": {}, **properties})
    async with batch(held, scripted, client, names):
        await send(client, names, "orders", Message(b"good", message_id="taken"), *numbered(3))
        await send(client, names, key, bad)
    await take(client, names.dead)
    await send(client, names, key, bad)
    await take(client, names.dead)
    await until(lambda: alive(Item) <= before[0] and alive(TriviumError) <= before[1])


TRACE = {"headers": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}


@pytest.mark.parametrize(
    ("topic", "properties"), [("other", {}), ("orders", {"user_id": "guest"}), ("orders", TRACE), ("no topic", {})]
)
async def test_what_does_not_go_together_is_published_one_by_one(
    held: Inbox,
    scripted: Scripted,
    client: AbstractChannel,
    names: Topology,
    log: SqliteLog,
    topic: str,
    properties: dict[str, Any],
) -> None:
    """One of another topic or sender, or of a trace, which has a span of its own."""
    async with batch(held, scripted, client, names):
        await send(client, names, "orders", *numbered(2))
        await send(client, names, topic, Message(b"odd", message_id="odd", **properties))
        await send(client, names, "orders", *numbered(2, start=2))
    found = [one.message.id for one in await stored(log, "orders", 6 if topic == "orders" else 5)]
    assert [id_ for id_ in found if id_ != "odd"] == ["first", "0", "1", "2", "3"]
    assert scripted.batches == [1] * 6


async def test_what_cant_be_stored_now_is_stored_later_in_order(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog, health: Health
) -> None:
    """Unavailable fails a whole batch; nothing is acknowledged, lost, or overtaken."""
    failing.down = Unavailable("the disk is full", retry_after=0.01)
    await send(client, names, "orders", *numbered(20))
    await until_state(health, "inbox", State.DEGRADED, "the disk is full")
    assert await log.head("orders") == 0
    failing.down = None
    assert [int(one.message.data) for one in await stored(log, "orders", 20)] == list(range(20))
    await until_state(health, "inbox", State.OK)


async def test_overload_at_the_call_stops_the_batch(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """What was admitted before is stored; from there on it is tried again, in order."""
    busy = iter([False, False, True, True])
    failing.raises = lambda message: Overloaded("full", retry_after=0.01) if next(busy, False) else None
    await send(client, names, "orders", *numbered(10))
    assert [int(one.message.data) for one in await stored(log, "orders", 10)] == list(range(10))


async def test_a_defect_is_tried_five_times_while_others_wait(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """Then the message is a dead letter of `internal`, and the others follow in order."""
    failing.raises = lambda message: Internal("a defect") if message.id == "3" else None
    await send(client, names, "orders", *numbered(6))
    assert [int(one.message.data) for one in await stored(log, "orders", 5)] == [0, 1, 2, 4, 5]
    [dead] = await take(client, names.dead)
    assert dead.headers["x-trivium-error-code"] == "internal"
    assert failing.attempts.count("3") == 5
    assert failing.attempts.index("4") > len(failing.attempts) - 1 - failing.attempts[::-1].index("3")


async def test_a_defect_that_passes_costs_nothing(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """Four failures are no dead letter."""
    failing.down = Internal("a defect")
    await send(client, names, "orders", *numbered(1))
    await until(lambda: len(failing.attempts) == 4)
    failing.down = None
    await stored(log, "orders", 1)
    await acknowledged(client, names.dead)


async def test_an_exception_that_is_none_of_ours_is_internal(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """A defect of the service ends as a dead letter too, not as the end of the inbox."""

    def broken(message: Any) -> TriviumError | None:
        raise ZeroDivisionError

    failing.raises = broken
    await send(client, names, "orders", *numbered(1))
    [dead] = await take(client, names.dead)
    assert dead.headers["x-trivium-error-code"] == "internal"


async def test_a_message_that_can_not_be_read_does_not_come_for_ever(
    failing: Scripted, client: AbstractChannel, names: Topology, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of what reads it makes one dead letter, and the others are stored."""

    def read(found: Any, body: bytes, limits: Limits) -> Any:
        if body == b"1":
            raise RecursionError
        return mapping.message_of(found, body, limits)

    monkeypatch.setattr(items, "message_of", read)
    await send(client, names, "orders", *numbered(3))
    assert [int(one.message.data) for one in await stored(log, "orders", 2)] == [0, 2]
    [dead] = await take(client, names.dead)
    assert dead.headers["x-trivium-error-code"] == "internal"


async def test_large_messages_are_bounded_in_memory(
    broker: Broker,
    service: LocalService,
    settings: Settings,
    health: Health,
    client: AbstractChannel,
    names: Topology,
    log: SqliteLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What passes the bound in bytes is let go and comes again: nothing is lost, the order holds."""
    monkeypatch.setattr("transports.amqp.inbox.Window", partial(Window, 100_000))
    async with Inbox(broker, OpenGate(service, settings), settings, health):
        bodies = [b"%06d" % number + b"x" * (40_000 if 100 <= number < 200 else 10) for number in range(400)]
        await send(client, names, "orders", *(Message(body) for body in bodies))
        assert [one.message.data for one in await stored(log, "orders", 400)] == bodies


async def test_a_deleted_queue_is_made_again(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """The consumer is cancelled in silence; the inbox declares the queue and consumes again."""
    await send(client, names, "orders", *numbered(1))
    await stored(log, "orders", 1)
    await client.queue_delete(names.inbox)
    await until_declared(client, names.inbox, consumers=1)
    await send(client, names, "orders", *numbered(1, start=1))
    await stored(log, "orders", 2)


async def test_a_deleted_dead_letter_queue_is_made_again(
    inbox: Inbox, client: AbstractChannel, names: Topology, log: SqliteLog
) -> None:
    """A dead letter is never acknowledged before a queue holds it."""
    await client.queue_delete(names.dead)
    await send(client, names, "no topic", Message(b"bad"))
    await send(client, names, "orders", Message(b"good"))
    await stored(log, "orders", 1)
    # not before the queue has it: RabbitMQ fails whoever consumes while it makes a queue again
    await until(lambda: not inbox._window.bytes)
    [dead] = await take(client, names.dead)
    assert dead.body == b"bad"


async def test_draining_finishes_the_batch_in_hand(
    broker: Broker,
    scripted: Scripted,
    settings: Settings,
    health: Health,
    client: AbstractChannel,
    names: Topology,
    log: SqliteLog,
) -> None:
    """It is acknowledged after its commit; what came later stays in the queue, in its order."""
    scripted.gate.clear()
    async with Inbox(broker, OpenGate(scripted, settings), settings, health):
        await send(client, names, "orders", *numbered(1))
        await until(lambda: len(scripted.attempts) == 1)
        await send(client, names, "orders", *numbered(5, start=1))
        asyncio.get_running_loop().call_later(0.05, scripted.gate.set)
    assert await log.head("orders") == 1
    assert [message.body for message in await take(client, names.inbox, 5)] == [b"1", b"2", b"3", b"4", b"5"]


async def test_draining_does_not_wait_for_what_is_stuck(
    broker: Broker,
    scripted: Scripted,
    settings: Settings,
    health: Health,
    client: AbstractChannel,
    names: Topology,
) -> None:
    """A message that can't be stored now goes back to its queue."""
    scripted.raises = lambda message: Unavailable("no", retry_after=60)
    async with Inbox(broker, OpenGate(scripted, settings), settings, health):
        await send(client, names, "orders", *numbered(3))
        await until(lambda: bool(scripted.attempts))
    assert [message.body for message in await take(client, names.inbox, 3)] == [b"0", b"1", b"2"]


def test_every_error_has_a_fate() -> None:
    """The table of the inbox is complete."""
    assert set(FATES) == set(TriviumError.__subclasses__())


async def until_declared(client: AbstractChannel, queue: str, consumers: int = 0) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                declared = await client.declare_queue(queue, passive=True)
            except ChannelNotFoundEntity:
                await client.reopen()
                continue
            if (declared.declaration_result.consumer_count or 0) >= consumers:
                return
