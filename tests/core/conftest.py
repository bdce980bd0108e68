"""Where the tests of the store keep it."""

from pathlib import Path

import pytest

from core.settings import MEMORY


@pytest.fixture(params=["memory", "folder"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == "memory" else str(tmp_path / "data")
