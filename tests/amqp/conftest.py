"""A real RabbitMQ, and the AMQP door on it under names of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeAlias, TypeVar

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from core.gate import OpenGate
from core.health import Health, State
from core.ports import MessageService
from core.settings import Settings
from tests.conftest import started_node
from tools.rabbitmq import Node
from transports.amqp.connection import Broker
from transports.amqp.inbox import Inbox
from transports.amqp.publisher import PikaPublisher
from transports.amqp.rpc import Rpc
from transports.amqp.topology import Topology

T = TypeVar("T")
#: For what comes within milliseconds on a quiet machine.
PATIENCE_SECONDS = 30.0


#: Runs what blocks beside the loop: `await aside(node.kill)`.
Aside: TypeAlias = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="session")
def aside() -> Iterator[Aside]:
    """In a thread that outlives the tests: a node dies with the thread that started it."""
    with ThreadPoolExecutor(1) as thread:

        async def run(function: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

        yield run


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, aside: Aside) -> Iterator[Node]:
    """A node that tests may stop, kill and freeze; each of them leaves it running."""
    with started_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def broker_url(amqp_url: str) -> str:
    """Overridden where a test needs the node."""
    return amqp_url


@pytest.fixture
def settings(settings: Settings, broker_url: str, amqp_prefix: str) -> Settings:
    """Names of the test's own, and quick retries."""
    return msgspec.structs.replace(settings, amqp_url=broker_url, amqp_prefix=amqp_prefix, amqp_retry_seconds=0.2)


@pytest.fixture
def names(settings: Settings) -> Topology:
    return Topology(settings.amqp_prefix)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[AbstractChannel]:
    """A channel of aio-pika, a client that none of us wrote; what the test declared is deleted at its end."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        yield await connection.channel()
    await clean_up(settings)


async def clean_up(settings: Settings) -> None:
    names = Topology(settings.amqp_prefix)
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        for queue in names.queues:
            await channel.queue_delete(queue.name)
        for exchange in names.exchanges:
            await channel.exchange_delete(exchange.name)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes in reverse what a test enters."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def broker(settings: Settings, health: Health, client: AbstractChannel) -> AsyncIterator[Broker]:
    """Connected, the topology declared."""
    async with Broker(settings, health) as broker:
        await until_state(health, "broker", State.OK)
        yield broker


@pytest.fixture
async def inbox(
    broker: Broker, service: MessageService, settings: Settings, health: Health, client: AbstractChannel
) -> AsyncIterator[Inbox]:
    """Open; at its end everything that it took is acknowledged."""
    async with Inbox(broker, OpenGate(service, settings), settings, health) as inbox:
        yield inbox
    await acknowledged(client, broker.topology.inbox)


@pytest.fixture
async def rpc(broker: Broker, service: MessageService, settings: Settings) -> AsyncIterator[Rpc]:
    async with Rpc(broker, OpenGate(service, settings), settings) as rpc:
        yield rpc


@pytest.fixture
async def publisher(broker: Broker, settings: Settings) -> PikaPublisher:
    publisher = PikaPublisher(broker, settings)
    await publisher.ready()
    return publisher


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody signals."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what a test waits for has no event
            await asyncio.sleep(0.005)


async def until_state(health: Health, name: str, state: State, text: str = "") -> str:
    """Wait until a check has that state, `text` in its detail; the detail."""
    await until(
        lambda: name in health.checks and health.checks[name].state is state and text in health.checks[name].detail
    )
    return health.checks[name].detail


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await awaitable


async def take(channel: AbstractChannel, queue: str, count: int = 1) -> list[AbstractIncomingMessage]:
    """The next messages of a queue, acknowledged."""
    found: list[AbstractIncomingMessage] = []
    source = await channel.get_queue(queue, ensure=False)
    async with asyncio.timeout(PATIENCE_SECONDS), source.iterator() as messages:
        async for message in messages:
            await message.ack()
            found.append(message)
            if len(found) == count:
                break
    return found


async def acknowledged(channel: AbstractChannel, queue: str) -> None:
    """Assert that nothing is left in a queue whose consumer is gone: what it returned would come first."""
    await channel.default_exchange.publish(aio_pika.Message(b"marker"), queue)
    assert [message.body for message in await take(channel, queue)] == [b"marker"]
