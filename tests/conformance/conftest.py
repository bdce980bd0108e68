"""A whole Trivium on a real broker, and a client of each kind."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc.aio
import httpx2
import pytest

from container import Container
from core.settings import MEMORY, Settings
from main import Running, running
from tests.conformance.clients import AmqpRpc, Client, Grpc, InProcess, Rest, amqp_rpc

#: The door of an edge, and how the edge reaches the core.
EDGES = ("rest over grpc", "rest over rest", "grpc over grpc", "grpc over rest")
KINDS = ("in process", "rest", "grpc", "amqp rpc", *EDGES)


@pytest.fixture(scope="session")
def amqp_prefix() -> str:
    """One for all tests here: declaring quorum queues takes a second, and each test has a log of its own."""
    return f"conformance-{uuid4().hex[:8]}"


@pytest.fixture
def settings(amqp_url: str, amqp_prefix: str) -> Settings:
    """All doors, on free ports."""
    return Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0, amqp_url=amqp_url, amqp_prefix=amqp_prefix)


@pytest.fixture
async def trivium(settings: Settings) -> AsyncIterator[Running]:
    """Up, and its AMQP door connected."""
    container = Container(settings=settings)
    async with running(container) as up:
        await container.publisher().ready()
        yield up


@pytest.fixture
async def rest(trivium: Running) -> AsyncIterator[Rest]:
    async with httpx2.AsyncClient(base_url=trivium.doors["rest"].address, timeout=60) as http:
        yield Rest(http)


@pytest.fixture
async def grpc_client(trivium: Running) -> AsyncIterator[Grpc]:
    async with grpc.aio.insecure_channel(trivium.doors["grpc"].address) as channel:
        yield Grpc(channel)


@pytest.fixture
async def rpc(trivium: Running, settings: Settings) -> AsyncIterator[AmqpRpc]:
    async with amqp_rpc(settings.amqp_url, f"{settings.amqp_prefix}.rpc") as client:
        yield client


@pytest.fixture
async def edge_client(kind: str, trivium: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client | None]:
    """A client of an edge, where the kind is one; the edge knows its core, also where the machine stalls meanwhile."""
    monkeypatch.setattr("core.remote.addresses._START_SECONDS", 30.0)
    if kind not in EDGES:
        yield None
        return
    door, _, core = kind.partition(" over ")
    address = trivium.doors[core].address
    settings = Settings(
        core=address if core == "rest" else f"grpc://{address}",
        rest=door == "rest",
        grpc=door == "grpc",
        amqp=False,
        rest_port=0,
        grpc_port=0,
        admin_port=0,
    )
    async with running(Container(settings=settings)) as edge, AsyncExitStack() as stack:
        address = edge.doors[door].address
        if door == "rest":
            yield Rest(await stack.enter_async_context(httpx2.AsyncClient(base_url=address, timeout=60)))
        else:
            yield Grpc(await stack.enter_async_context(grpc.aio.insecure_channel(address)))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    return str(request.param)


@pytest.fixture
async def client(
    kind: str, trivium: Running, rest: Rest, grpc_client: Grpc, rpc: AmqpRpc, edge_client: Client | None
) -> Client:
    """A client of that kind."""
    if edge_client is not None:
        return edge_client
    kinds: dict[str, Client] = {
        "in process": InProcess(trivium.service),
        "rest": rest,
        "grpc": grpc_client,
        "amqp rpc": rpc,
    }
    return kinds[kind]
