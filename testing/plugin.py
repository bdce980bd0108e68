"""pytest fixtures: a whole Trivium in the test's event loop, in memory and on free ports, in well under a second.

    pytest_plugins = ["testing.plugin"]  # in conftest.py

    async def test_greets(trivium):
        answer = await client.get(f"{trivium.rest}/api/data")

Override `trivium_settings` for other settings and `trivium_container` for other adapters. The AMQP door is
played by a `FakeBroker`, which takes what the relay sends: `await trivium.broker.received(1)`.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from dependency_injector import providers

from container import Container
from core.ports import MessageService
from core.settings import MEMORY, Settings
from main import Running, running
from testing.broker import FakeBroker


class Trivium:
    """A running Trivium: `rest` and `admin` are the base URLs of REST and metrics, `grpc` is the target of gRPC."""

    def __init__(self, up: Running, container: Container) -> None:
        self.container = container
        self.service: MessageService = up.service
        self.rest = up.doors["rest"].address if "rest" in up.doors else ""
        self.grpc = up.doors["grpc"].address if "grpc" in up.doors else ""
        self.admin = up.admin
        self.broker: FakeBroker = container.publisher()


@pytest.fixture
def trivium_settings() -> Settings:
    """In memory, on free ports."""
    return Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0)


@pytest.fixture
def trivium_container(trivium_settings: Settings) -> Container:
    """The adapters: all real but the broker."""
    container = Container(settings=trivium_settings)
    container.publisher.override(providers.Singleton(FakeBroker, "#"))
    for absent in (container.broker, container.inbox, container.rpc):
        absent.override(providers.Object(None))
    return container


@pytest_asyncio.fixture
async def trivium(trivium_container: Container) -> AsyncIterator[Trivium]:
    """A whole Trivium, up until the test ends."""
    async with running(trivium_container) as up:
        yield Trivium(up, trivium_container)
