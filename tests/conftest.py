"""Fixtures of the core, a log in memory and the service on it; and a RabbitMQ for all who need one."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest

from core.health import Health
from core.ports import SystemClock
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.sqlite import LogBounds, SqliteLog
from tests.pki import Pki
from tools.rabbitmq import Node, NodeError, NodeTls

pytest_plugins = ["testing.plugin"]

#: How long an example takes says nothing here: the machine may stall.
hypothesis.settings.register_profile(
    "trivium", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("trivium")


@pytest.fixture
def settings() -> Settings:
    """Settings for tests: in memory, on free ports."""
    return Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def log(settings: Settings, health: Health) -> AsyncIterator[SqliteLog]:
    """A log in memory."""
    async with SqliteLog(settings.data_dir, LogBounds.of(settings), SystemClock(), health) as log:
        yield log


@pytest.fixture
def service(log: SqliteLog, settings: Settings) -> LocalService:
    """The service on that log."""
    return LocalService.of(log, settings)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without collections: what hangs on itself stays, as it does for long in the service."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Certificates of this test's own."""
    folder = tmp_path / "pki"
    folder.mkdir()
    return Pki(folder)


@pytest.fixture(scope="session")
def amqp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that stays up: the one of AMQP_URL, or a private node for all tests together."""
    if url := os.environ.get("AMQP_URL"):
        yield url
        return
    with started_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node.url


@pytest.fixture
def amqp_prefix() -> str:
    """A name of this test's own for its exchanges and queues."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
def rabbitmq_node(tmp_path: Path) -> Iterator[Node]:
    """A node of this test's own, which it may stop, kill, freeze and start."""
    with started_node(tmp_path / "rabbitmq") as node:
        yield node


def started_node(folder: Path, *, tls: NodeTls | None = None) -> Node:
    """A node that runs; where RabbitMQ is not installed the test is skipped, but never in CI."""
    node = Node(folder, tls=tls)
    try:
        node.start()
    except NodeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return node
