"""A folder with a policy, and a service on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.process import TriviumProcess, trivium_process
from tests.keys.clients import POLICY


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def flags(policy: Path, data: Path) -> list[str]:
    return [f"--data-dir={data}", f"--policy={policy}"]


@pytest.fixture
async def service(flags: list[str]) -> AsyncIterator[TriviumProcess]:
    """A Trivium that asks who comes, and tells all in its log."""
    async with trivium_process(*flags, "--no-amqp", "--auth=required", "--log-level=debug") as trivium:
        yield trivium
