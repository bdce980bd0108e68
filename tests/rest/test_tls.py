"""HTTP over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import h2.events
import httpx2
import msgspec
import pytest
import uvloop
from h2.errors import ErrorCodes
from starlette.types import Receive, Scope, Send

from core.gate import OpenGate
from core.health import Health
from core.messages import new_message
from core.ports import SystemClock
from core.service import LocalService
from core.settings import Settings
from core.stores.sqlite import LogBounds, SqliteLog
from tests.core.opening import alive
from tests.pki import Pki
from tests.rest.test_http2 import http2
from tests.rest.wire import connected, request, until
from transports.rest import connections, http1, tls
from transports.rest.door import RestDoor
from transports.rest.http1 import Http1
from transports.rest.http2 import Http2Connection
from transports.rest.requests import Request
from transports.rest.serving import HttpServer

MESSAGES = "/api/topics/t/messages"
STREAM = "/api/topics/t/stream"


@pytest.fixture
def server_context(pki: Pki) -> ssl.SSLContext:
    """Offers both versions of HTTP, and takes certificates of clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.key)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture
def context(pki: Pki) -> ssl.SSLContext:
    """Of a client."""
    return pki.context()


@pytest.fixture
async def door(
    service: LocalService, health: Health, settings: Settings, server_context: ssl.SSLContext
) -> AsyncIterator[RestDoor]:
    async with RestDoor(OpenGate(service, settings), health, settings, "1.2.3", tls=server_context) as door:
        yield door
        service.drain()


@pytest.fixture
def scopes(door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the requests' scopes were."""
    found: list[Any] = []
    made = Request.__init__

    def init(self: Request, scope: Any, *arguments: Any) -> None:
        found.append(scope)
        made(self, scope, *arguments)

    monkeypatch.setattr(Request, "__init__", init)
    return found


@pytest.mark.parametrize("version", [1, 2])
async def test_speaks_either_version(door: RestDoor, context: ssl.SSLContext, version: int) -> None:
    """ALPN decides on the version; large bodies come and go, streams begin."""
    assert door.address.startswith("https://")
    async with httpx2.AsyncClient(
        base_url=door.address, http1=version == 1, http2=version == 2, verify=context, timeout=30
    ) as http:
        posted = await http.post(MESSAGES, content=b"x" * 900_000)
        assert (posted.status_code, posted.http_version) == (201, "HTTP/1.1" if version == 1 else "HTTP/2")
        offset = posted.json()["offset"]
        assert len((await http.get(f"{MESSAGES}/{offset}")).json()["data_base64"]) == 1_200_000
        async with http.stream("GET", f"{STREAM}?after={offset}") as answer:
            assert await anext(answer.aiter_lines()) == f"id: {offset}"


@pytest.mark.parametrize("version", [1, 2])
async def test_tells_who_the_client_is(
    door: RestDoor, context: ssl.SSLContext, pki: Pki, scopes: list[Any], version: int
) -> None:
    """A verified certificate of the client is in the scope's state, and the scheme is `https`."""
    async with httpx2.AsyncClient(http1=version == 1, http2=version == 2, verify=context, timeout=30) as http:
        assert (await http.get(f"{door.address}/livez")).status_code == 200
    shown = pki.context(pki.ours.client("client.example"))
    async with httpx2.AsyncClient(http1=version == 1, http2=version == 2, verify=shown, timeout=30) as http:
        assert (await http.get(f"{door.address}/livez")).status_code == 200
    anonymous, known = scopes
    assert (anonymous["state"]["peer"], anonymous["scheme"]) == (None, "https")
    assert known["state"]["peer"].subject == "CN=client.example"


@pytest.mark.parametrize("head", [request("GET", "/livez", "Connection: close"), b"GET /livez HTTP/1.0\r\n\r\n"])
async def test_closes_at_once(
    door: RestDoor, context: ssl.SSLContext, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS has no half-closed connections; where nothing more can come there is nothing to wait for."""
    monkeypatch.setattr(http1, "_LINGER_SECONDS", 3600)
    async with connected(door, context) as wire:
        await wire.send(head)
        async with asyncio.timeout(4):
            assert b" 200 " in await wire.closed()


async def test_speaks_http1_without_alpn(door: RestDoor, context: ssl.SSLContext) -> None:
    """A client that names no protocol gets HTTP/1.1; several requests may come at once."""
    async with connected(door, context) as wire:
        await wire.send(request("POST", MESSAGES, body=b"x" * 200_000) + request("GET", "/livez"))
        assert (await wire.reply()).status == 201
        wire.again()
        assert (await wire.reply()).status == 200


async def test_refuses_http2_that_was_not_agreed_on(door: RestDoor, context: ssl.SSLContext) -> None:
    """Prior knowledge is for clear text alone."""
    async with connected(door, context) as wire:
        await wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await wire.reply()).status == 400
        assert await wire.closed() == b""


async def test_survives_clear_text(door: RestDoor, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture) -> None:
    """Who does not speak TLS is disconnected, without a line in the log."""
    async with connected(door) as wire:
        await wire.send(request("GET", "/livez"))
        assert b"HTTP" not in await wire.closed()
    async with connected(door, context) as other:
        await other.send(request("GET", "/livez"))
        assert (await other.reply()).status == 200
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_ends_handshakes_that_stall(
    service: LocalService,
    health: Health,
    settings: Settings,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that says nothing is disconnected after a while."""
    monkeypatch.setattr(tls, "_HANDSHAKE_SECONDS", 0.05)
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1", tls=server_context) as door,
        connected(door) as wire,
    ):
        async with asyncio.timeout(20):
            assert await wire.closed() == b""


async def test_bounds_connections(
    service: LocalService,
    health: Health,
    settings: Settings,
    server_context: ssl.SSLContext,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Past the bound a connection is secured, told why, and closed; further past it is dropped."""
    monkeypatch.setattr("transports.rest.door._CONNECTIONS", 0)
    monkeypatch.setattr(connections, "_REFUSALS", 1)
    few = msgspec.structs.replace(settings, max_streams=1)
    async with (
        RestDoor(OpenGate(service, settings), health, few, "1", tls=server_context) as door,
        connected(door) as silent,
    ):
        async with connected(door, context) as refused:
            assert (await refused.reply()).status == 429
            async with connected(door) as dropped:
                assert await dropped.closed() == b""
        await until(lambda: len(door._server._connections) == 1)
        context.set_alpn_protocols(["h2"])
        async with http2(door, context) as other:
            goodbye = await other.until(h2.events.ConnectionTerminated)
            assert isinstance(goodbye, h2.events.ConnectionTerminated)
            assert (goodbye.error_code, goodbye.last_stream_id) == (ErrorCodes.ENHANCE_YOUR_CALM, 0)
            assert b"which is the most" in (goodbye.additional_data or b"")
            await other.closed()
        silent.writer.close()


async def test_leaves_at_once(
    service: LocalService,
    health: Health,
    settings: Settings,
    server_context: ssl.SSLContext,
    context: ssl.SSLContext,
) -> None:
    """Handshakes, idle connections and streams do not hold up the end."""
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1", tls=server_context) as door,
        connected(door),
        connected(door, context) as idle,
        connected(door, context) as follower,
    ):
        await idle.send(request("GET", "/livez"))
        await idle.reply()
        await follower.send(request("GET", STREAM))
        await until(lambda: service.streams == 1)
        service.drain()
        async with asyncio.timeout(4):
            await door.__aexit__(None, None, None)
        assert (await follower.reply()).body == b"id: 0\n\n"


async def test_notices_who_left(door: RestDoor, context: ssl.SSLContext, service: LocalService) -> None:
    """A follower that closes its connection, or just vanishes, gives its place back."""
    async with connected(door, context) as one, connected(door, context) as two:
        for wire in (one, two):
            await wire.send(request("GET", STREAM))
            await wire.reader.readuntil(b"\n\n")
        one.writer.close()
        await until(lambda: service.streams == 1)
        two.writer.transport.abort()
        await until(lambda: service.streams == 0)


@pytest.mark.usefixtures("uncollected")
async def test_frees_connections_that_closed(door: RestDoor, context: ssl.SSLContext, service: LocalService) -> None:
    """Their buffers are large, and collections rare: none holds itself, not even one that was lost under a request."""
    before = alive(Http1)
    for path in ("/livez", STREAM):
        async with connected(door, context) as wire:
            await wire.send(request("GET", path))
            await wire.reader.readuntil(b"\r\n\r\n")
            assert alive(Http1)
        await until(lambda: alive(Http1) <= before)


@pytest.mark.usefixtures("uncollected")
async def test_frees_connections_of_http2_too(door: RestDoor, context: ssl.SSLContext) -> None:
    """They end in the same cases."""
    context.set_alpn_protocols(["h2"])
    before = alive(Http2Connection)
    for path in ("/livez", STREAM):
        async with http2(door, context) as client:
            await client.until(h2.events.DataReceived, await client.ask("GET", path))
            assert alive(Http2Connection)
        await until(lambda: alive(Http2Connection) <= before)


async def test_cuts_a_follower_that_does_not_read(
    door: RestDoor, context: ssl.SSLContext, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure reaches through TLS."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.2)
    async with connected(door, context) as wire:
        await wire.send(request("GET", f"{STREAM}?after=0"))
        await wire.reader.readuntil(b"id: 0\n\n")
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket can
        async with asyncio.timeout(30):
            while service.streams:
                await service.publish("t", [new_message(b"x" * 500_000)])


async def test_sends_an_answer_as_it_is_taken(server_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    """What the client has not taken waits with us, and is neither encrypted ahead nor taken for sent."""
    body = b"x" * 30_000_000  # systems take some megabytes by themselves
    sent: list[Scope] = []

    def stuck() -> list[Http1]:
        return [one for one in server._connections if isinstance(one, Http1) and one.is_stuck]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
        await send({"type": "http.response.body", "body": body})
        sent.append(scope)

    server = HttpServer(app, max_connections=10, tls=server_context)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0), ssl=context)
    for _ in range(2):
        sent.clear()
        writer.write(request("GET", "/"))
        await until(lambda: bool(stuck()))
        assert stuck()[0]._transport.get_write_buffer_size() < 200_000
        assert not sent
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(body)) == body
        await until(lambda: bool(sent))
    writer.close()
    await server.close(2)


def test_is_the_same_on_uvloop(
    server_context: ssl.SSLContext, context: ssl.SSLContext, settings: Settings, health: Health
) -> None:
    """The loop that the service runs on has a TLS of its own."""

    async def scenario() -> None:
        async with SqliteLog(settings.data_dir, LogBounds.of(settings), SystemClock(), health) as log:
            service = LocalService.of(log, settings)
            async with RestDoor(OpenGate(service, settings), health, settings, "1", tls=server_context) as door:
                await test_speaks_http1_without_alpn(door, context)
                await test_refuses_http2_that_was_not_agreed_on(door, context)
                await test_notices_who_left(door, context, service)
                await test_sends_an_answer_as_it_is_taken(server_context, context)
                for version in (1, 2):  # last, since httpx2 sets what the context offers
                    await test_speaks_either_version(door, context, version)
                async with connected(door), connected(door, context) as idle:
                    await idle.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                    await idle.reader.readexactly(9)
                    async with asyncio.timeout(4):
                        await door.__aexit__(None, None, None)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
