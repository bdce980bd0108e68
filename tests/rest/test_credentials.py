"""What a connection shows, and shows again."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from core.gate import Credentials, PolicyGate, Session
from core.health import Health
from core.keys import KeyRing
from core.policy import Entry, Policy
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.keys import SqliteKeys
from transports.rest.door import RestDoor

POLICY = Policy(principals={"one": Entry(read=("#",)), "other": Entry(read=("other.#",))})


class CountingGate(PolicyGate):
    """Counts how often it was asked."""

    asked = 0

    async def admit(self, credentials: Credentials) -> Session:
        self.asked += 1
        return await super().admit(credentials)


@pytest.fixture
def keys() -> KeyRing:
    return KeyRing(SqliteKeys(MEMORY))


@pytest.fixture
def gate(service: LocalService, keys: KeyRing, settings: Settings) -> CountingGate:
    return CountingGate(service, POLICY, keys, None, settings)


@pytest.fixture(params=[1, 2])
async def http(
    request: pytest.FixtureRequest, gate: CountingGate, health: Health, settings: Settings
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that keeps one connection, of either version."""
    version = request.param
    async with (
        RestDoor(gate, health, settings, "1") as door,
        httpx2.AsyncClient(
            base_url=door.address,
            http1=version == 1,
            http2=version == 2,
            timeout=30,
            limits=httpx2.Limits(max_connections=1),
        ) as client,
    ):
        yield client


async def test_what_a_connection_shows_again_is_not_proved_again(
    http: httpx2.AsyncClient, gate: CountingGate, keys: KeyRing
) -> None:
    """Something else is, nothing at all is refused, and the key's use is noted every time."""
    record, key = await keys.create("one")
    _, other = await keys.create("other")
    for asked in (1, 1, 1):
        assert (await http.get("/api/data", headers={"X-API-Key": key})).status_code == 200
        assert gate.asked == asked
    keys.last_used.clear()
    assert (await http.get("/api/data", headers={"X-API-Key": key})).status_code == 200
    assert record.id in keys.last_used
    assert (await http.get("/api/data", headers={"X-API-Key": other})).status_code == 403
    assert (await http.get("/api/data", headers={"Authorization": f"Bearer {key}"})).status_code == 200
    assert gate.asked == 3
    assert (await http.get("/api/data")).status_code == 401
    twice = [("X-API-Key", key), ("Authorization", f"Bearer {key}")]
    assert (await http.get("/api/data", headers=twice)).status_code == 400


async def test_what_was_revoked_meanwhile_is_refused(http: httpx2.AsyncClient, keys: KeyRing) -> None:
    """Also on the connection that it came through."""
    record, key = await keys.create("one")
    assert (await http.get("/api/data", headers={"X-API-Key": key})).status_code == 200
    await keys.revoke(record.id)
    assert (await http.get("/api/data", headers={"X-API-Key": key})).status_code == 401
