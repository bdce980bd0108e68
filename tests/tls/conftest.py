"""Certificates that are watched closely, and what they log."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from core.health import Health
from core.settings import Settings
from tests.pki import Pki
from transports.tls import certificates
from transports.tls.certificates import Certificates


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_LOOK_SECONDS", 0.01)


@pytest.fixture
async def served(pki: Pki, settings: Settings, health: Health) -> AsyncIterator[Certificates]:
    """Clients need none."""
    async with Certificates(pki.settings(settings), health) as found:
        yield found


@pytest.fixture
async def mutual(pki: Pki, settings: Settings, health: Health) -> AsyncIterator[Certificates]:
    """Clients need one of `ours`."""
    async with Certificates(pki.settings(settings, mutual=True), health) as found:
        yield found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nobody signals."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what a test waits for has no event
            await asyncio.sleep(0.002)


async def rotated(pki: Pki, served: Certificates) -> int:
    """A new certificate, by its serial number, once it is served."""
    number = pki.rotate()
    await until(lambda: served.current.pair.serial == number)
    return number
