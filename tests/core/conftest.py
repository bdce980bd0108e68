"""A log of either kind, for the tests of the store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.health import Health
from core.settings import MEMORY
from core.stores.sqlite import SqliteLog
from tests.core.opening import a_log


@pytest.fixture(params=["memory", "folder"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == "memory" else str(tmp_path / "data")


@pytest.fixture
async def either_log(data_dir: str, health: Health) -> AsyncIterator[SqliteLog]:
    """A log in a folder or in memory."""
    async with a_log(data_dir, health) as log:
        yield log


