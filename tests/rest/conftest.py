"""Fixtures of the REST door: a door on the test's loop, and an HTTP client of it."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from core.gate import OpenGate, PolicyGate
from core.health import Health
from core.keys import KeyRing
from core.policy import Entry, Policy
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.keys import SqliteKeys
from transports.rest.door import RestDoor


@pytest.fixture
async def door(service: LocalService, health: Health, settings: Settings) -> AsyncIterator[RestDoor]:
    """A door that listens on a free port. Override `settings` for other settings."""
    async with RestDoor(OpenGate(service, settings), health, settings, "1.2.3") as door:
        yield door
        health.drain()
        service.drain()


@pytest.fixture
def keys() -> KeyRing:
    """Keys of `guarded`: `boss` may do everything, `shop` nothing."""
    return KeyRing(SqliteKeys(MEMORY), principals=("boss", "shop"))


@pytest.fixture
async def guarded(service: LocalService, health: Health, settings: Settings, keys: KeyRing) -> AsyncIterator[RestDoor]:
    """A door that asks who comes."""
    all_of_it = ("#",)
    boss = Entry(publish=all_of_it, read=all_of_it, admin=all_of_it)
    gate = PolicyGate(service, Policy({"boss": boss, "shop": Entry()}), keys, None, settings)
    async with RestDoor(gate, health, settings, "1.2.3") as door:
        yield door
        health.drain()
        service.drain()


@pytest.fixture
async def http(door: RestDoor) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=door.address, timeout=30) as client:
        yield client
