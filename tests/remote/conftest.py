"""Cores and edges on the test's loop, and the links between them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from container import Container
from core.errors import TriviumError
from core.gate import Gate, OpenGate, PolicyGate
from core.health import Health
from core.keys import KeyRing
from core.policy import Policy
from core.ports import MessageService
from core.remote.service import RemoteService
from core.settings import MEMORY, Settings
from main import Running, running
from tests.remote.proxy import Proxy
from transports.grpc.door import GrpcDoor
from transports.rest.door import RestDoor

#: As long as a test waits for anything.
PATIENCE_SECONDS = 30.0
#: How a core can be reached.
PROTOCOLS = ("grpc", "rest")


class Core:
    """A core in this process, each of its doors behind a proxy."""

    def __init__(self, up: Running, container: Container, grpc: Proxy, rest: Proxy) -> None:
        self.service: MessageService = up.service
        self.keys: KeyRing = container.keys()
        self._gate: Gate = container.gate()
        self.grpc = grpc
        self.rest = rest

    def reload(self, policy: Policy) -> None:
        """Take another policy, as with SIGHUP."""
        assert isinstance(self._gate, PolicyGate)
        self._gate.reload(policy)

    def proxy(self, protocol: str) -> Proxy:
        return self.grpc if protocol == "grpc" else self.rest

    def address(self, protocol: str) -> str:
        """What an edge calls it."""
        scheme = "grpc" if protocol == "grpc" else "http"
        return f"{scheme}://{self.proxy(protocol).address}"

    @property
    def addresses(self) -> str:
        """Both, gRPC preferred."""
        return f"{self.address('grpc')},{self.address('rest')}"


class AnEdge:
    """An edge in this process."""

    def __init__(self, up: Running, container: Container) -> None:
        service = up.service
        assert isinstance(service, RemoteService)
        self.service = service
        self.health: Health = container.health()
        self.doors = up.doors
        self.admin = up.admin
        self.gate: Gate = container.gate()

    @property
    def streams(self) -> int:
        """Followers and waiting reads, of all callers."""
        return self.service._edge.streams.open

    async def notices(self, text: str) -> None:
        """Make calls until the check of the core says `text`; without calls it would take some seconds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while text not in self.health.checks["core"].detail:
                with suppress(TriviumError):
                    await self.service.get_message("none", 1)

    async def until(self, check: str, text: str) -> None:
        """Wait until the detail of a check says `text`."""
        await until(lambda: check in self.health.checks and text in self.health.checks[check].detail)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes in reverse what a test enters."""
    async with AsyncExitStack() as stack:
        yield stack


async def start_core(stack: AsyncExitStack, **settings: Any) -> Core:
    """A core with a log in memory, up until the stack is closed."""
    ours = Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0, amqp=False, **settings)
    container = Container(settings=ours)
    up = await stack.enter_async_context(running(container))
    grpc = await stack.enter_async_context(Proxy(up.doors["grpc"].address))
    rest = await stack.enter_async_context(Proxy(up.doors["rest"].address.removeprefix("http://")))
    return Core(up, container, grpc, rest)


@pytest.fixture
async def core(stack: AsyncExitStack) -> Core:
    """One that lets everybody in."""
    return await start_core(stack)


async def start_edge(stack: AsyncExitStack, addresses: str, **settings: Any) -> AnEdge:
    """An edge of the core at `addresses`, up until the stack is closed."""
    container = Container(
        settings=Settings(core=addresses, rest_port=0, grpc_port=0, admin_port=0, amqp=False, **settings)
    )
    return AnEdge(await stack.enter_async_context(running(container)), container)


async def door_of(service: Any, protocol: str, stack: AsyncExitStack) -> str:
    """What an edge calls a door of that service, which is up until the stack is closed."""
    settings = Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0)
    gate = OpenGate(service, settings)
    if protocol == "grpc":
        return f"grpc://{(await stack.enter_async_context(GrpcDoor(gate, Health(), settings))).address}"
    return (await stack.enter_async_context(RestDoor(gate, Health(), settings, "1"))).address


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody signals."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what a test waits for has no event
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge is told of its core before a test goes on, also where the machine stalls meanwhile."""
    monkeypatch.setattr("core.remote.addresses._START_SECONDS", PATIENCE_SECONDS)
