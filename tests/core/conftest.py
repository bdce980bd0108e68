"""Where the tests of the store keep it, and who issues tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import MEMORY
from tests.core.issuing import TestIssuer


@pytest.fixture(params=["memory", "folder"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == "memory" else str(tmp_path / "data")


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    """An issuer of access tokens, with a key `k1`."""
    with TestIssuer() as issuer:
        yield issuer
