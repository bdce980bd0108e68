"""The REST door over TLS."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from tests.pki import HOST, Pki, resumed, serial_of
from tests.tls.conftest import rotated, until
from transports.rest.door import RestDoor
from transports.rest.serving import HttpServer
from transports.tls.certificates import Certificates

GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
MESSAGES = "/api/topics/t/messages"


@asynccontextmanager
async def opened(
    service: LocalService, health: Health, settings: Settings, served: Certificates
) -> AsyncIterator[RestDoor]:
    async with RestDoor(OpenGate(service, settings), health, settings, "1.2.3", tls=served.context) as door:
        yield door
        service.drain()


@pytest.fixture
async def door(
    service: LocalService, health: Health, settings: Settings, served: Certificates
) -> AsyncIterator[RestDoor]:
    """Over TLS; clients need no certificate."""
    async with opened(service, health, settings, served) as door:
        yield door


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_a_client_and_its_version_of_http(door: RestDoor, pki: Pki, http2: bool, version: str) -> None:
    """ALPN settles it; publishing, reading and following go as without TLS."""
    assert door.address.startswith("https://")
    async with httpx2.AsyncClient(base_url=door.address, verify=pki.context(), http2=http2, timeout=30) as client:
        posted = await asyncio.gather(*(client.post(MESSAGES, content=b"x" * 100_000) for _ in range(10)))
        assert {answer.http_version for answer in posted} == {version}
        assert sorted(answer.json()["offset"] for answer in posted) == list(range(1, 11))
        assert (await client.get(MESSAGES)).json()["next"] == 10
        async with client.stream("GET", "/api/topics/t/stream?after=9") as stream:
            lines = stream.aiter_lines()
            assert [await anext(lines) for _ in range(4)] == ["id: 9", "", "id: 10", "event: message"]


@pytest.mark.parametrize("flag", ["--http1.1", "--http2", "--http2-prior-knowledge"])
async def test_curl(door: RestDoor, pki: Pki, flag: str) -> None:
    """A client of other make."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", flag, "--cacert", str(pki.ca), f"{door.address}/api/data"), stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await process.communicate()
    assert b'"offset":0' in answer


@pytest.mark.parametrize(("offered", "chosen"), [(["h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)])
async def test_alpn(door: RestDoor, pki: Pki, offered: list[str], chosen: str | None) -> None:
    """A client that offers nothing gets HTTP/1.1, as it always did."""
    context = pki.context()
    if offered:
        context.set_alpn_protocols(offered)
    address = urlsplit(door.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    if chosen != "h2":
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a client that can be told its groups")
@pytest.mark.parametrize(("groups", "good"), [("P-256", True), ("X25519:P-256", True), ("ffdhe8192", False)])
async def test_groups_that_are_dear_are_refused(door: RestDoor, pki: Pki, groups: str, good: bool) -> None:
    """A client could have us compute for milliseconds, and do nothing itself."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-groups", groups, "-CAfile", str(pki.ca), "-connect", urlsplit(door.address).netloc),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    said, _ = await process.communicate()
    assert (b"Verification: OK" in said and b"TLSv1.3, Cipher is TLS_" in said) is good


async def test_plain_text_is_refused(door: RestDoor) -> None:
    """There is no port that takes both."""
    async with httpx2.AsyncClient(base_url=door.address.replace("https", "http"), timeout=30) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/livez")


async def test_a_handshake_that_never_comes_is_ended(
    service: LocalService, health: Health, settings: Settings, served: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that says nothing is not kept."""
    monkeypatch.setattr("transports.rest.tls._HANDSHAKE_SECONDS", 0.05)
    async with opened(service, health, settings, served) as door, asyncio.timeout(30):
        address = urlsplit(door.address)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        assert await reader.read() == b""
        writer.close()


def https(door: RestDoor, context: ssl.SSLContext) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=door.address, verify=context, timeout=30)


class TestMutual:
    """Clients need a certificate of `ours`."""

    @pytest.fixture
    async def door(
        self, service: LocalService, health: Health, settings: Settings, mutual: Certificates
    ) -> AsyncIterator[RestDoor]:
        async with opened(service, health, settings, mutual) as door:
            yield door

    async def test_who_is_let_in(self, door: RestDoor, pki: Pki) -> None:
        """Nobody without a certificate, nor with one of another authority, of a server, or from the past."""
        async with https(door, pki.context(pki.ours.client("orders"))) as client:
            assert (await client.get("/livez")).status_code == 200
        strangers = [
            None,
            pki.other.client("orders"),
            pki.ours.server("orders"),
            pki.ours.client("orders", days=-1),
        ]
        for stranger in strangers:
            async with https(door, pki.context(stranger)) as client:
                with pytest.raises((httpx2.NetworkError, httpx2.RemoteProtocolError)):
                    await client.get("/livez")

    async def test_authorities_are_rotated(self, door: RestDoor, pki: Pki, mutual: Certificates) -> None:
        """Who is trusted no longer can't connect, not even with a session from before; open connections stay."""
        context = pki.context(pki.ours.client("orders"))
        async with https(door, context) as kept, https(door, pki.context(pki.other.client("orders"))) as other:
            assert (await kept.get("/livez")).status_code == 200
            port = urlsplit(door.address).port or 0
            session, _ = await asyncio.to_thread(resumed, context, port, None, GET)
            assert (await asyncio.to_thread(resumed, context, port, session, GET))[1]
            pki.ca.write_bytes(pki.other.certificate)
            old = mutual.current
            await until(lambda: mutual.current is not old)
            assert (await other.get("/livez")).status_code == 200
            assert (await kept.get("/livez")).status_code == 200
            with pytest.raises(OSError, match=r"UNKNOWN_CA|closed"):
                await asyncio.to_thread(resumed, context, port, session, GET)

    async def test_what_the_file_holds_is_trusted(self, door: RestDoor, pki: Pki, mutual: Certificates) -> None:
        """Be it a part of the tree, or a client's own certificate, whose authority is not trusted."""
        client = pki.other.client("orders")
        pki.ca.write_bytes(client.certificate)
        old = mutual.current
        await until(lambda: mutual.current is not old)
        async with https(door, pki.context(client)) as one:
            assert (await one.get("/livez")).status_code == 200


async def test_the_application_hears_who_it_is(pki: Pki, mutual: Certificates) -> None:
    """In the state of the scope, as the scheme is `https`."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["state"]["peer"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = HttpServer(app, max_connections=10, tls=mutual.context)
    port = await server.listen(HOST, 0)
    pair = pki.ours.client("orders", "spiffe://example/orders")
    for http2 in (False, True):
        async with httpx2.AsyncClient(verify=pki.context(pair), http2=http2, timeout=30) as client:
            assert (await client.get(f"https://{HOST}:{port}/")).status_code == 204
    await server.close(1)
    assert [(scheme, peer.subject, peer.names) for scheme, peer in seen] == [
        ("https", "CN=orders", ("URI:spiffe://example/orders",))
    ] * 2


async def test_rotation_under_load(door: RestDoor, pki: Pki, served: Certificates) -> None:
    """Twenty new certificates while requests flow on kept and on new connections: none fails, all are seen."""
    context = pki.context()
    done = asyncio.Event()
    seen: set[int] = set()
    counts = {"kept": 0, "new": 0}

    async def ask(client: httpx2.AsyncClient, kind: str) -> None:
        answer = await client.post(MESSAGES, content=b"x")
        assert answer.status_code == 201
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        number = serial_of(tls.getpeercert(binary_form=True))
        counts[kind] += 1
        if kind == "new":
            seen.add(number)
        else:
            assert number == first

    async def kept(http2: bool) -> None:
        async with httpx2.AsyncClient(base_url=door.address, verify=context, http2=http2, timeout=30) as client:
            while not done.is_set():
                await ask(client, "kept")

    async def new() -> None:
        while not done.is_set():
            async with https(door, context) as client:
                await ask(client, "new")

    first = served.current.pair.serial
    async with asyncio.TaskGroup() as group:
        for http2 in (False, True):
            group.create_task(kept(http2))
        for _ in range(2):
            group.create_task(new())
        await until(lambda: counts["kept"] > 0 and first in seen)
        for _ in range(20):
            number = await rotated(pki, served)
            await until(lambda number=number: number in seen)  # type: ignore[misc]  # mypy can't type the default
        await until(lambda: min(counts.values()) > 200)
        done.set()
    assert len(seen) == 21
