"""What a browser is told: headers that keep content harmless, and whose pages may call."""

import httpx2
import msgspec
import pytest

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from transports.rest.door import RestDoor

ORIGIN = "https://app.example"


@pytest.mark.parametrize(
    "path", ["/api/data", "/api/topics/t/messages", "/docs", "/openapi.json", "/nowhere", "/livez"]
)
async def test_content_is_harmless(http: httpx2.AsyncClient, path: str) -> None:
    """No guessing at types, no foreign scripts, no frames, no copies; and nobody says what serves."""
    headers = (await http.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers


async def test_no_origin_is_allowed_by_itself(http: httpx2.AsyncClient) -> None:
    """A page elsewhere can't read our answers."""
    answer = await http.get("/api/data", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = await http.options("/api/data", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405


async def test_listed_origins_may_call(service: LocalService, health: Health, settings: Settings) -> None:
    """With credentials in a header; errors can be read by them too, and others are still kept away."""
    listed = msgspec.structs.replace(settings, rest_cors_origins=(ORIGIN,))
    async with (
        RestDoor(OpenGate(service, listed), health, listed, "1") as door,
        httpx2.AsyncClient(base_url=door.address, timeout=30) as http,
    ):
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await http.options("/api/data", headers={"Origin": ORIGIN, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        for path, status in (("/api/data", 200), ("/nowhere", 404)):
            answer = await http.get(path, headers={"Origin": ORIGIN})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        other = await http.get("/api/data", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
