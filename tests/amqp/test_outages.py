"""The node is stopped, killed, frozen and starved: nothing is lost, the order holds, all recovers by itself."""

import asyncio
import itertools
from asyncio import Future
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aio_pika
import msgspec
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from core.gate import OpenGate
from core.health import Health, State
from core.messages import StoredMessage, new_message
from core.ports import MessageService, SystemClock, Undeliverable, Unroutable
from core.settings import Settings
from core.stores.sqlite import SqliteLog
from tests.amqp.conftest import Aside, acknowledged, clean_up, take, until, until_state
from tools.rabbitmq import Node
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.connection import Broker
from transports.amqp.inbox import Inbox
from transports.amqp.publisher import PikaPublisher
from transports.amqp.rpc import Rpc
from transports.amqp.topology import Topology


@pytest.fixture
def broker_url(node: Node) -> str:
    return node.url


@pytest.fixture(autouse=True)
async def running(node: Node, aside: Aside) -> AsyncIterator[None]:
    """The node runs again after each test, whatever became of it."""
    yield
    node.thaw()
    if node._server is None:
        await aside(node.start)


@pytest.fixture
async def door(
    settings: Settings, health: Health, service: MessageService, running: None
) -> AsyncIterator[PikaPublisher]:
    """All of the door, open, whether or not the broker is there."""
    async with Broker(settings, health) as broker:
        publisher = PikaPublisher(broker, settings)
        async with (
            Inbox(broker, OpenGate(service, settings), settings, health),
            Rpc(broker, OpenGate(service, settings), settings),
        ):
            yield publisher


async def produce(settings: Settings, names: Topology, count: int) -> None:
    """Send messages 0, 1, 2, ... each again until RabbitMQ confirmed it, through whatever happens to the node."""
    todo = iter(range(count))
    number = next(todo)
    while True:
        try:
            async with await aio_pika.connect(settings.amqp_url) as connection:
                channel = await connection.channel()
                exchange = await channel.get_exchange(names.inbox, ensure=False)
                while True:
                    message = Message(b"%d" % number, message_id=str(number), delivery_mode=2)
                    await asyncio.wait_for(exchange.publish(message, "orders"), 5)
                    number = next(todo)
        except StopIteration:
            return
        except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, asyncio.CancelledError):
            if asyncio.current_task().cancelling():  # type: ignore[union-attr] # there is one
                raise


async def in_order(log: SqliteLog, count: int) -> None:
    """Everything was stored once, in the order of sending."""
    async with asyncio.timeout(60):
        await log.beyond("orders", count - 1)
    found = list(itertools.chain(*[await log.read("orders", after, 1000, 1 << 30) for after in range(0, count, 1000)]))
    assert [one.message.id for one in found] == [str(number) for number in range(count)]
    assert await log.head("orders") == count


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_while_producers_publish(
    door: PikaPublisher,
    settings: Settings,
    names: Topology,
    health: Health,
    node: Node,
    log: SqliteLog,
    end: str,
    aside: Aside,
) -> None:
    """What RabbitMQ confirmed to a producer that sends ids is stored once, in order."""
    await until_state(health, "broker", State.OK)
    producing = asyncio.create_task(produce(settings, names, 2000))
    await until(lambda: log._tails.heads.get("orders", 0) > 300)
    await aside(getattr(node, end))
    await until_state(health, "broker", State.DEGRADED)
    assert health.ready
    await aside(node.start)
    await producing
    await in_order(log, 2000)
    await clean_up(settings)


async def test_a_kill_while_the_relay_publishes(
    settings: Settings, names: Topology, health: Health, node: Node, stack: AsyncExitStack, aside: Aside
) -> None:
    """What was confirmed is on the queue; what was not fails, and is sent again when the broker is back."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        # before the door declares its own: RabbitMQ 3.10 that is killed soon after never wakes the newest queue again
        queue = await channel.declare_queue(f"{names.prefix}.t", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.declare_exchange(names.out, "topic", durable=True)
        await queue.bind(names.out, "t")
    broker = Broker(settings, health)
    door = PikaPublisher(broker, settings)
    await stack.enter_async_context(broker)
    await door.ready()
    # a crash right after a declaration may cost RabbitMQ the queue, or leave it without a leader
    await aside(node.stop)
    await aside(node.start)
    count = 3000
    now = SystemClock().now()
    todo = [StoredMessage("t", offset, now, new_message(b"x")) for offset in range(1, count + 1)]
    confirmed = 0
    killing: Future[None] | None = None
    while todo:
        await door.ready()
        answers = [door.publish(stored) for stored in todo[:500]]
        await asyncio.wait(answers)
        good = [answer.exception() is None for answer in answers]
        confirmed = good.index(False) if False in good else len(good)
        todo = todo[confirmed:]
        if killing is None:
            killing = asyncio.ensure_future(aside(restart, node))
    assert killing is not None
    await killing
    await until_state(health, "broker", State.OK)
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        seen: list[int] = []
        while len(set(seen)) < count:
            more = await take(channel, f"{names.prefix}.t", count - len(set(seen)))
            seen += [int(str(one.headers["x-trivium-offset"])) for one in more]
        firsts = list(dict.fromkeys(seen))
        assert firsts == list(range(1, count + 1))
        await channel.queue_delete(f"{names.prefix}.t")
    await clean_up(settings)


def restart(node: Node) -> None:
    node.kill()
    node.start()


async def test_a_broker_that_comes_later(
    node: Node,
    settings: Settings,
    names: Topology,
    health: Health,
    service: MessageService,
    log: SqliteLog,
    aside: Aside,
) -> None:
    """The door opens without it, and works once it is there."""
    await aside(node.stop)
    async with Broker(settings, health) as broker, Inbox(broker, OpenGate(service, settings), settings, health):
        publisher = PikaPublisher(broker, settings)
        await until_state(health, "broker", State.DEGRADED)
        with pytest.raises(Undeliverable, match="no connection"):
            await publisher.publish(message())
        await aside(node.start)
        await publisher.ready()
        await until_state(health, "broker", State.OK)
        await produce(settings, names, 10)
        await in_order(log, 10)
    await clean_up(settings)


async def test_a_frozen_broker_is_noticed(
    node: Node, settings: Settings, names: Topology, health: Health, log: SqliteLog, service: MessageService
) -> None:
    """By the confirm deadline, long before heartbeats miss; what was in flight fails, and all recovers."""
    settings = msgspec.structs.replace(settings, amqp_confirm_seconds=1.0)
    async with Broker(settings, health) as broker, Inbox(broker, OpenGate(service, settings), settings, health):
        publisher = PikaPublisher(broker, settings)
        await publisher.ready()
        await until_state(health, "broker", State.OK)
        node.freeze()
        async with asyncio.timeout(5):
            with pytest.raises(Undeliverable, match="silent for 1 s"):
                await publisher.publish(message())
        await until_state(health, "broker", State.DEGRADED, "silent")
        node.thaw()
        await publisher.ready()
        await until_state(health, "broker", State.OK)
        await produce(settings, names, 10)
        await in_order(log, 10)
    await clean_up(settings)


async def test_leaving_while_the_broker_is_frozen(node: Node, settings: Settings, health: Health) -> None:
    """It takes the time of a good-bye that is not answered, not that of a heartbeat."""
    async with Broker(settings, health):
        await until_state(health, "broker", State.OK)
        node.freeze()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 10
    node.thaw()
    await clean_up(settings)


@asynccontextmanager
async def alarm(node: Node, aside: Aside) -> AsyncIterator[None]:
    """RabbitMQ takes itself to be out of memory."""
    await aside(node.ctl, "set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        await aside(node.ctl, "set_vm_memory_high_watermark", "0.4")


async def test_an_alarm_blocks_what_goes_out(
    door: PikaPublisher, node: Node, settings: Settings, health: Health, aside: Aside
) -> None:
    """Publishing waits and the check tells it; after the alarm all is well."""
    await door.ready()
    await until_state(health, "broker", State.OK)
    async with alarm(node, aside):
        door.publish(message()).add_done_callback(Future.exception)  # what RabbitMQ notices publishers by
        await until_state(health, "broker", State.DEGRADED, "takes no messages: low on memory")
        stuck = door.publish(message())
        ready = asyncio.ensure_future(door.ready())
        assert "blocked" in await aside(node.ctl, "list_connections", "state")
        assert not stuck.done()
        assert not ready.done()
    await ready
    with pytest.raises(Unroutable):
        await stuck
    await until_state(health, "broker", State.OK)
    await clean_up(settings)


async def test_the_inbox_drains_its_queue_during_an_alarm(
    node: Node,
    settings: Settings,
    names: Topology,
    health: Health,
    log: SqliteLog,
    service: MessageService,
    aside: Aside,
) -> None:
    """While the relay is blocked, acknowledgements are read all the same: what is queued gets stored."""
    async with Broker(settings, health) as broker:
        publisher = PikaPublisher(broker, settings)
        await publisher.ready()
        await until_state(health, "broker", State.OK)
        await produce(settings, names, 2000)
        async with alarm(node, aside):
            publisher.publish(message()).add_done_callback(Future.exception)
            await until_state(health, "broker", State.DEGRADED, "low on memory")
            async with Inbox(broker, OpenGate(service, settings), settings, health):
                await in_order(log, 2000)
    await clean_up(settings)


async def test_a_dead_letter_that_waits_does_not_keep_the_others(
    node: Node,
    settings: Settings,
    names: Topology,
    health: Health,
    log: SqliteLog,
    service: MessageService,
    client: AbstractChannel,
    aside: Aside,
) -> None:
    """During an alarm it can't be buried: what is queued behind it is stored and acknowledged all the same."""
    async with Broker(settings, health) as broker:
        publisher = PikaPublisher(broker, settings)
        await publisher.ready()
        await until_state(health, "broker", State.OK)
        exchange = await client.get_exchange(names.inbox, ensure=False)
        await exchange.publish(Message(b"bad"), "no topic")
        await produce(settings, names, 200)
        async with alarm(node, aside):
            publisher.publish(message()).add_done_callback(Future.exception)
            await until_state(health, "broker", State.DEGRADED, "low on memory")
            async with Inbox(broker, OpenGate(service, settings), settings, health):
                await in_order(log, 200)
                await until_state(health, "inbox", State.DEGRADED, "does not take dead letters")
        async with Inbox(broker, OpenGate(service, settings), settings, health) as inbox:
            [dead] = await take(client, names.dead)
            assert dead.body == b"bad"
            await until_state(health, "inbox", State.OK)
        assert inbox._taken == 1
        await acknowledged(client, names.inbox)


def message() -> StoredMessage:
    """One that no queue takes."""
    return StoredMessage("nowhere", 1, SystemClock().now(), new_message(b""))


async def test_a_channel_without_an_answer_is_given_up_alone(
    broker: Broker, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is that waits for a queue without a leader; after many the connection is taken to be at fault."""
    connection = broker.intake._connection
    assert connection is not None
    channels = [await Channel.open(connection) for _ in range(20)]
    node.freeze()
    monkeypatch.setattr("transports.amqp.channel._ANSWER_SECONDS", 0.05)
    for channel in channels:
        assert not connection.lost.done()
        with pytest.raises(ChannelLost, match=r"no answer within 0\.05 s"):
            await channel.call("basic_qos", prefetch_count=1)
    monkeypatch.undo()
    assert "20 channels got no answer" in str(await connection.lost)
    node.thaw()
