"""Rights at both ends: what RabbitMQ lets Trivium do, and what Trivium lets RabbitMQ's users do.

The permissions here are the ones of docs/rabbitmq.md, which a test compares.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from core.gate import Gate, OpenGate, PolicyGate
from core.health import Health, State
from core.keys import KeyRing
from core.messages import StoredMessage, new_message
from core.policy import Entry, Policy
from core.ports import Undeliverable
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.keys import SqliteKeys
from core.stores.sqlite import SqliteLog
from tests.amqp.conftest import Aside, clean_up, take, until_state, within
from tools.rabbitmq import Node
from transports.amqp.connection import Broker
from transports.amqp.inbox import Inbox
from transports.amqp.publisher import PikaPublisher
from transports.amqp.rpc import Rpc
from transports.amqp.topology import Topology

DOCUMENT = Path(__file__).parents[2] / "docs" / "rabbitmq.md"


class Rights(NamedTuple):
    """Of a user: patterns for `set_permissions`, and by exchange those for `set_topic_permissions` (write, read)."""

    configure: str
    write: str
    read: str
    topics: Mapping[str, tuple[str, str]] = MappingProxyType({})


TRIVIUM = Rights(
    configure=r"^trivium\.(in|out|dead|rpc)$",
    write=r"^(trivium\.(in|out|dead|rpc)|amq\.default)$",
    read=r"^trivium\.(in|dead|rpc)$",
)
TRIVIUM_WITHOUT_DECLARE = Rights(
    configure="^$", write=r"^(trivium\.(out|dead)|amq\.default)$", read=r"^trivium\.(in|rpc)$"
)
PRODUCER = Rights(configure="^$", write=r"^trivium\.in$", read="^$", topics={"trivium.in": (r"^orders\.", "^$")})
CONSUMER = Rights(
    configure=r"^shop\.",
    write=r"^shop\.",
    read=r"^(shop\..*|trivium\.out)$",
    topics={"trivium.out": ("^$", r"^orders\.")},
)
CALLER = Rights(configure="^$", write=r"^amq\.default$", read="^$")
DOCUMENTED = {
    "trivium": TRIVIUM,
    "trivium-checks": TRIVIUM_WITHOUT_DECLARE,
    "producer": PRODUCER,
    "consumer": CONSUMER,
    "caller": CALLER,
}


def test_the_permissions_tested_here_are_the_documented_ones() -> None:
    """Who copies the commands gets what was tried."""
    text = DOCUMENT.read_text()
    for user, rights in DOCUMENTED.items():
        assert f"set_permissions {user} '{rights.configure}' '{rights.write}' '{rights.read}'" in text
        for exchange, (write, read) in rights.topics.items():
            assert f"set_topic_permissions {user} {exchange} '{write}' '{read}'" in text


def test_the_documented_exchanges_and_queues_are_those_that_trivium_declares() -> None:
    """So that who declares them for it makes the same."""
    names = Topology("trivium")
    expected = [f"| exchange | `{one.name}` | `{one.kind}` | |" for one in names.exchanges]
    for queue in names.queues:
        bound = "" if queue.binding_key is None else f" `{queue.name}`, key {_shown(queue.binding_key)}"
        expected.append(f"| queue | `{queue.name}` | `{json.dumps(queue.arguments)}` |{bound} |")
    assert re.findall(r"^\| (?:exchange|queue) .*$", DOCUMENT.read_text(), re.MULTILINE) == expected


def _shown(key: str) -> str:
    return f"`{key}`" if key else "empty"


class Users:
    """Makes users of RabbitMQ with rights on names under this test's prefix."""

    def __init__(self, node: Node, aside: Aside, prefix: str) -> None:
        self._node = node
        self._aside = aside
        self._prefix = prefix
        self.made: list[str] = []

    async def make(self, rights: Rights) -> str:
        """The URL of a new user."""
        name = f"u{uuid4().hex[:8]}"
        self.made.append(name)
        await self._ctl("add_user", name, "sesame")
        await self.set(name, rights)
        return self._node.url.replace("guest:guest", f"{name}:sesame")

    async def set(self, name: str, rights: Rights) -> None:
        await self._ctl("set_permissions", name, *map(self._mine, (rights.configure, rights.write, rights.read)))
        for exchange, patterns in rights.topics.items():
            await self._ctl("set_topic_permissions", name, exchange.replace("trivium", self._prefix), *patterns)

    async def _ctl(self, *arguments: str) -> None:
        await self._aside(lambda: self._node.ctl(*arguments))

    def _mine(self, pattern: str) -> str:
        return pattern.replace("trivium", re.escape(self._prefix)).replace("shop", f"{self._prefix}-shop")


@pytest.fixture
def broker_url(node: Node) -> str:
    """The node whose users tests may make."""
    return node.url


@pytest.fixture
async def users(node: Node, aside: Aside, amqp_prefix: str) -> AsyncIterator[Users]:
    users = Users(node, aside, amqp_prefix)
    yield users
    for name in users.made:
        await aside(node.ctl, "delete_user", name)


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[AbstractChannel]:
    """Somebody who may do everything, and cleans up."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        yield await connection.channel()
    await clean_up(settings)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


@asynccontextmanager
async def amqp_door(settings: Settings, health: Health, gate: Gate) -> AsyncIterator[PikaPublisher]:
    """All of the door but the relay's loop."""
    async with Broker(settings, health) as broker:
        publisher = PikaPublisher(broker, settings)
        async with Inbox(broker, gate, settings, health), Rpc(broker, gate, settings):
            yield publisher


@pytest.mark.parametrize("declare", [True, False])
async def test_least_rights_are_enough(
    settings: Settings,
    health: Health,
    service: LocalService,
    log: SqliteLog,
    users: Users,
    admin: AbstractChannel,
    names: Topology,
    stack: AsyncExitStack,
    declare: bool,
) -> None:
    """Inbox, dead letters, relay and RPC work for users with the documented permissions, and no others."""
    if not declare:  # somebody else has made what there must be
        async with Broker(settings, health):
            await until_state(health, "broker", State.OK)
    rights = TRIVIUM if declare else TRIVIUM_WITHOUT_DECLARE
    mine = msgspec.structs.replace(settings, amqp_url=await users.make(rights), amqp_declare=declare)
    publisher = await stack.enter_async_context(amqp_door(mine, health, OpenGate(service, mine)))
    await until_state(health, "broker", State.OK, mine.amqp_url.split(":")[1].strip("/"))

    producer = await stack.enter_async_context(connected(await users.make(PRODUCER)))
    exchange = await producer.get_exchange(names.inbox, ensure=False)
    await exchange.publish(aio_pika.Message(b"stored"), "orders.new")
    await exchange.publish(aio_pika.Message(b"{", content_type="application/json"), "orders.bad")
    assert [letter.body for letter in await take(admin, names.dead)] == [b"{"]
    await within(30, log.beyond("orders.new", 0))

    consumer = await stack.enter_async_context(connected(await users.make(CONSUMER)))
    queue = await consumer.declare_queue(f"{names.prefix}-shop.orders", durable=True)
    stack.push_async_callback(admin.queue_delete, queue.name)
    await queue.bind(names.out, "orders.new")
    (stored,) = await log.read("orders.new", 0, 1, 0)
    await within(30, publisher.ready())
    await within(30, publisher.publish(stored))
    assert [message.body for message in await take(consumer, queue.name)] == [b"stored"]

    caller = await stack.enter_async_context(connected(await users.make(CALLER)))
    answers = await replies_of(caller)
    call = aio_pika.Message(b'{"topic": "orders.new"}', type="GetData", reply_to="amq.rabbitmq.reply-to")
    await caller.default_exchange.publish(call, names.rpc)
    assert json.loads(await within(30, answers.get()))["message"] == "stored"


async def replies_of(caller: AbstractChannel) -> asyncio.Queue[bytes]:
    """What comes by direct reply-to."""
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def take_in(message: AbstractIncomingMessage) -> None:
        answers.put_nowait(message.body)

    replies = await caller.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await replies.consume(take_in, no_ack=True)
    return answers


Act: TypeAlias = Callable[[AbstractChannel, Topology], Awaitable[None]]


def publishing(exchange: str, key: str) -> Act:
    async def act(channel: AbstractChannel, names: Topology) -> None:
        found = await channel.get_exchange(f"{names.prefix}.{exchange}", ensure=False)
        await found.publish(aio_pika.Message(b"x"), key)

    return act


def consuming(queue: str) -> Act:
    async def act(channel: AbstractChannel, names: Topology) -> None:
        found = await channel.get_queue(f"{names.prefix}.{queue}", ensure=False)
        await found.consume(_ignore)

    return act


async def _ignore(_: object) -> None:
    """Nothing comes."""


async def binding_another_topic(channel: AbstractChannel, names: Topology) -> None:
    queue = await channel.declare_queue(f"{names.prefix}-shop.other", exclusive=True)
    await queue.bind(names.out, "stock")


@pytest.mark.parametrize(
    ("rights", "act"),
    [
        (PRODUCER, publishing("in", "stock")),
        (PRODUCER, publishing("out", "orders.new")),
        (PRODUCER, publishing("dead", "orders.new")),
        (PRODUCER, consuming("in")),
        (CONSUMER, publishing("in", "orders.new")),
        (CONSUMER, binding_another_topic),
        (CONSUMER, consuming("dead")),
        (CALLER, consuming("rpc")),
    ],
)
async def test_clients_can_do_no_more_than_they_need(
    broker: Broker, users: Users, names: Topology, rights: Rights, act: Act
) -> None:
    """A producer does not write to other topics or past the inbox, nor does a consumer read others' queues."""
    async with connected(await users.make(rights)) as channel:
        with pytest.raises(ChannelAccessRefused):
            await act(channel, names)


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ({"configure": "^$"}, ["exchange 'trivium.in' can't be declared", "set amqp_declare to false"]),
        ({"write": r"^trivium\.(in|dead)$"}, ["relay: ", "access to exchange 'trivium.out'", "refused"]),
        ({"read": r"^trivium\.(dead|rpc)$"}, ["queue 'trivium.in'", "access to exchange 'trivium.in'", "refused"]),
        ({"read": r"^trivium\.(in|dead)$"}, ["RPC: ", "access to queue 'trivium.rpc'", "refused"]),
    ],
)
async def test_a_missing_right_is_named(
    settings: Settings,
    health: Health,
    service: LocalService,
    users: Users,
    admin: AbstractChannel,
    lacking: dict[str, Any],
    named: list[str],
) -> None:
    """The check `broker` tells what was refused, on what; once the right is given, it works."""
    mine = msgspec.structs.replace(settings, amqp_url=await users.make(TRIVIUM._replace(**lacking)))
    async with amqp_door(mine, health, OpenGate(service, mine)) as publisher:
        if "write" in lacking:
            await within(30, publisher.ready())
            with pytest.raises(Undeliverable):
                await publisher.publish(a_message("orders.new"))
        detail = await until_state(health, "broker", State.DEGRADED, named[-2].replace("trivium", settings.amqp_prefix))
        for part in named:
            assert part.replace("trivium", settings.amqp_prefix) in detail
        assert "sesame" not in detail
        await users.set(users.made[0], TRIVIUM)
        await until_state(health, "broker", State.OK)


async def test_the_user_that_rabbitmq_vouches_for_is_the_principal(
    settings: Settings,
    health: Health,
    service: LocalService,
    log: SqliteLog,
    users: Users,
    admin: AbstractChannel,
    names: Topology,
) -> None:
    """What a principal may not do goes to the dead letters, with the code of the other doors."""
    url = await users.make(PRODUCER._replace(topics={}))
    user = users.made[0]
    policy = Policy(principals={"shop": Entry(publish=("orders.#",), read=("orders.#",), rabbitmq_users=(user,))})
    gate = PolicyGate(service, policy, KeyRing(SqliteKeys(MEMORY)), None, settings)
    async with amqp_door(settings, health, gate), connected(url) as producer:
        await until_state(health, "broker", State.OK)
        exchange = await producer.get_exchange(names.inbox, ensure=False)
        await exchange.publish(aio_pika.Message(b"1", user_id=user), "orders.new")
        await exchange.publish(aio_pika.Message(b"2", user_id=user), "stock")
        await exchange.publish(aio_pika.Message(b"3"), "orders.new")
        letters = await take(admin, names.dead, 2)
        assert {letter.body: letter.headers["x-trivium-error-code"] for letter in letters} == {
            b"2": "permission_denied",
            b"3": "unauthenticated",
        }
        await within(30, log.beyond("orders.new", 0))
        assert [one.message.data for one in await log.read("orders.new", 0, 9, 1 << 20)] == [b"1"]
        with pytest.raises(ChannelPreconditionFailed, match="user_id"):
            await exchange.publish(aio_pika.Message(b"4", user_id="somebody"), "orders.new")


async def test_an_rpc_has_the_rights_of_its_user(
    settings: Settings, health: Health, service: LocalService, users: Users, admin: AbstractChannel, names: Topology
) -> None:
    """The answer to somebody else is a problem document with the code of the other doors."""
    url = await users.make(CALLER)
    policy = Policy(principals={"shop": Entry(read=("orders.#",), rabbitmq_users=(users.made[0],))})
    gate = PolicyGate(service, policy, KeyRing(SqliteKeys(MEMORY)), None, settings)
    async with amqp_door(settings, health, gate), connected(url) as caller:
        await until_state(health, "broker", State.OK)
        answers = await replies_of(caller)
        for topic, user, told in (
            ("orders.new", users.made[0], '"message"'),
            ("stock", users.made[0], "permission_denied"),
            ("orders.new", None, "unauthenticated"),
        ):
            body = json.dumps({"topic": topic}).encode()
            call = aio_pika.Message(body, type="GetData", user_id=user, reply_to="amq.rabbitmq.reply-to")
            await caller.default_exchange.publish(call, names.rpc)
            assert told in (await within(30, answers.get())).decode()


async def test_a_rate_pauses_the_intake(
    settings: Settings, health: Health, service: LocalService, log: SqliteLog, admin: AbstractChannel, names: Topology
) -> None:
    """Past a principal's rate messages wait in RabbitMQ; none is lost, and their order holds."""
    slow = msgspec.structs.replace(settings, principal_messages=20)
    async with amqp_door(slow, health, OpenGate(service, slow)):
        await until_state(health, "broker", State.OK)
        exchange = await admin.get_exchange(names.inbox, ensure=False)
        for number in range(30):
            await exchange.publish(aio_pika.Message(b"%d" % number), "t")
        await within(30, log.beyond("t", 29))
    assert [one.message.data for one in await log.read("t", 0, 99, 1 << 20)] == [b"%d" % n for n in range(30)]


def a_message(topic: str) -> StoredMessage:
    return StoredMessage(topic, 1, datetime.now(UTC), new_message(b"x"))
