"""Fixtures of the REST door: a door on the test's loop, and an HTTP client of it."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from transports.rest.door import RestDoor


@pytest.fixture
async def door(service: LocalService, health: Health, settings: Settings) -> AsyncIterator[RestDoor]:
    """A door that listens on a free port. Override `settings` for other settings."""
    async with RestDoor(OpenGate(service, settings), health, settings, "1.2.3") as door:
        yield door
        health.drain()
        service.drain()


@pytest.fixture
async def http(door: RestDoor) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=door.address, timeout=30) as client:
        yield client
