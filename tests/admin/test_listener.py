"""The admin listener: probes, the log level, and HTTP from anybody."""

import asyncio
import gc
import gzip
import logging
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from time import process_time
from urllib.parse import urlsplit

import httpx2
import msgspec
import pytest
import uvloop

from core.errors import PermissionDenied
from core.health import Health, State
from core.settings import Settings
from core.telemetry.metrics import Metrics
from transports.admin import http as admin_http
from transports.admin.http import Request
from transports.admin.listener import AdminListener


@pytest.fixture
async def admin(health: Health, settings: Settings) -> AsyncIterator[AdminListener]:
    async with AdminListener(Metrics(), health, settings) as admin:
        yield admin


@pytest.fixture
async def http(admin: AdminListener) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=admin.address, timeout=30) as http:
        yield http


@pytest.fixture
def _level_as_before() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


async def raw(admin: AdminListener, request: bytes) -> bytes:
    """All that comes back before the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(admin.address).port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_it_is_alive_whatever_the_parts_say(http: httpx2.AsyncClient, health: Health) -> None:
    """Only the process itself: who restarts it because a disk is full gains nothing."""
    health.report("store", State.FAILED, "gone")
    answer = await http.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_it_is_ready_between_start_and_drain(http: httpx2.AsyncClient, health: Health) -> None:
    """Told as a problem document before and after."""
    health.start()
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["detail"] == "the service is starting"
    health.started()
    assert (await http.get("/readyz")).json() == {"status": "ok"}
    health.drain()
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the service is ending")


async def test_a_broker_that_is_away_unreadies_nothing(http: httpx2.AsyncClient, health: Health) -> None:
    """It is told where details are asked for; a store that failed is another matter."""
    health.report("broker", State.DEGRADED, "connection refused")
    answer = await http.get("/readyz?verbose")
    assert answer.status_code == 200
    assert answer.json()["checks"] == {"broker": {"state": "degraded", "detail": "connection refused"}}
    assert (await http.get("/readyz?verbose=yes")).status_code == 400
    health.report("store", State.FAILED)
    answer = await http.get("/readyz?verbose")
    assert (answer.status_code, answer.json()["detail"]) == (503, "failed: store")
    assert answer.json()["checks"]["store"]["state"] == "failed"


@pytest.mark.usefixtures("_level_as_before")
async def test_the_log_level_changes_at_run_time(http: httpx2.AsyncClient) -> None:
    """For whoever logs from then on; anything but a level is refused and changes nothing."""
    assert (await http.put("/loglevel", json={"level": "debug"})).json() == {"level": "debug"}
    assert logging.getLogger("trivium.any").isEnabledFor(logging.DEBUG)
    assert (await http.put("/loglevel", json={"level": "error"})).status_code == 200
    assert not logging.getLogger("trivium.any").isEnabledFor(logging.WARNING)
    for bad in (
        b'{"level": "loud"}',
        b'{"level": 1}',
        b'{"level": "debug", "x": 1}',
        b"debug",
        b"",
        b'{"level": "\xff"}',
    ):
        answer = await http.put("/loglevel", content=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert (await http.get("/loglevel")).json() == {"level": "error"}


async def test_other_paths_and_methods(http: httpx2.AsyncClient) -> None:
    """Problem documents that say what there is."""
    answer = await http.get("/api/data")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "/metrics" in answer.json()["detail"]
    answer = await http.post("/loglevel")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, PUT")
    answer = await http.head("/livez")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_scrape_is_compressed_for_who_asks(http: httpx2.AsyncClient) -> None:
    """The same text in a fraction of the bytes."""
    plain = await http.get("/metrics", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    async with http.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as answer:
        compressed = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert len(compressed) < len(plain.content) / 2
    assert b"trivium_build_info" in gzip.decompress(compressed)


@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text;version=nonsense;q=x", "\xff", ",;="])
async def test_any_accept_header_gets_metrics(admin: AdminListener, accept: str) -> None:
    """Scrapers ask in many ways."""
    answer = await raw(admin, f"GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n".encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"GET livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nx: " + b"x" * 10_000, 431),
        (b"PUT /loglevel HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", 413),
        (b"PUT /loglevel HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"PUT /loglevel HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /loglevel HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"PUT /loglevel HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)
async def test_http_from_anybody(admin: AdminListener, request_: bytes, status: int) -> None:
    """Is answered in kind, and costs one connection."""
    answer = await raw(admin, request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


async def test_no_header_takes_long() -> None:
    """White space at its ends is no part of it; what is within does not cost the square of its length."""
    reader = asyncio.StreamReader(limit=100_000)
    value = "x" + " " * 30_000 + "x"
    reader.feed_data(f"GET / HTTP/1.1\r\nA: \t{value}\t \r\n\r\n".encode())
    begun = process_time()
    assert (await admin_http._read(reader, "::1")).headers == {"a": value}
    assert process_time() - begun < 1


def test_who_is_gone_before_being_served_is_no_error(health: Health, settings: Settings) -> None:
    """A connection that was reset has no address any more, where uvloop tells of it."""
    errors: list[object] = []

    async def reset_and_ask() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with AdminListener(Metrics(), health, settings) as admin:
            with socket.create_connection(("127.0.0.1", urlsplit(admin.address).port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return await raw(admin, b"GET /livez HTTP/1.1\r\n\r\n")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(reset_and_ask()).startswith(b"HTTP/1.1 200 ")
        gc.collect()  # which tells of a task that failed unheard
    assert errors == []


async def test_who_stalls_is_turned_away(admin: AdminListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time that is enough for any probe."""
    monkeypatch.setattr(admin_http, "_SECONDS", 0.05)
    assert (await raw(admin, b"GET /livez HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")


async def test_connections_are_bounded(admin: AdminListener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes beyond that is dropped, and later ones are served again."""
    monkeypatch.setattr(admin_http, "_CONNECTIONS", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(admin.address).port)
    writer.write(b"GET /livez")
    while not admin._server._connections:  # noqa: ASYNC110 - nobody else is told
        await asyncio.sleep(0)
    try:
        refused = await raw(admin, b"GET /livez HTTP/1.1\r\n\r\n")
    except OSError:
        refused = b""
    assert refused == b""
    writer.write(b" HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_port_that_is_taken(admin: AdminListener, health: Health, settings: Settings) -> None:
    """The error says which, and what to do about it."""
    port = urlsplit(admin.address).port
    other = AdminListener(Metrics(), health, msgspec.structs.replace(settings, admin_port=port))
    with pytest.raises(
        OSError, match=rf"can't listen on 127\.0\.0\.1:{port}: Address already in use.*; use another --admin-port"
    ):
        await other.__aenter__()


async def test_ipv6(health: Health, settings: Settings) -> None:
    """The address is a URL there too."""
    local = msgspec.structs.replace(settings, admin_host="::1")
    async with (
        AdminListener(Metrics(), health, local) as admin,
        httpx2.AsyncClient(base_url=admin.address, timeout=30) as http,
    ):
        assert admin.address.startswith("http://[::1]:")
        assert (await http.get("/livez")).status_code == 200


async def test_the_log_level_is_changed_from_this_machine_alone(admin: AdminListener) -> None:
    """Where the listener is opened to a scraper elsewhere, there are still no rights on it."""
    asked = Request("192.0.2.1", "PUT", "/loglevel", "", {}, b'{"level": "debug"}')
    with pytest.raises(PermissionDenied):
        await admin.answer(asked)
    assert (await admin.answer(msgspec.structs.replace(asked, method="GET"))).status == 200
