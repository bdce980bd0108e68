"""HTTP/2 with prior knowledge, on the same port."""

import asyncio
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from types import ModuleType
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx2
import msgspec
import pytest
from h2.errors import ErrorCodes

from core.service import LocalService
from core.settings import Settings
from tests.rest.wire import until
from transports.rest import connections, serving
from transports.rest.door import RestDoor

MESSAGES = "/api/topics/t/messages"


class Http2:
    """A connection on which single frames can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._reader = reader
        self._writer = writer
        self._authority = authority
        self.events: list[h2.events.Event] = []

    async def flush(self) -> None:
        self._writer.write(self.protocol.data_to_send())
        await self._writer.drain()

    async def ask(
        self, method: str, path: str, *headers: tuple[str, str], end: bool = True, parts: Sequence[bytes] = ()
    ) -> int:
        """Begin a request; `parts` of its body leave in one write with its head."""
        stream = self.protocol.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", self._authority)]
        self.protocol.send_headers(stream, [*pseudo, *headers], end_stream=end)
        for part in parts:
            self.protocol.send_data(stream, part)
        await self.flush()
        return stream

    async def until(self, kind: type[h2.events.Event], stream: int | None = None) -> h2.events.Event:
        """The first event of a kind, as it may have come before."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self.events.remove(event)
                    return event
            data = await self._reader.read(65536)
            assert data, "the connection was closed"
            for event in self.protocol.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.events.append(event)
            await self.flush()

    async def status(self, stream: int) -> int:
        event = await self.until(h2.events.ResponseReceived, stream)
        assert isinstance(event, h2.events.ResponseReceived)
        return int(dict(event.headers or [])[b":status"])

    async def closed(self) -> None:
        while await self._reader.read(65536):
            pass

    def vanish(self) -> None:
        self._writer.transport.abort()

    def reset_all(self) -> None:
        for stream in tuple(self.protocol.streams):
            self.protocol.reset_stream(stream)
        self._writer.write(self.protocol.data_to_send())


@asynccontextmanager
async def http2(door: RestDoor, tls: ssl.SSLContext | None = None, *, window: int = 65535) -> AsyncIterator[Http2]:
    address = urlsplit(door.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=tls)
    client = Http2(reader, writer, address.netloc)
    values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
    client.protocol.local_settings = h2.settings.Settings(client=True, initial_values=values)
    client.protocol.initiate_connection()
    await client.flush()
    try:
        yield client
    finally:
        writer.close()


async def test_speaks_http2(door: RestDoor) -> None:
    """A whole client: many requests at once on one connection."""
    async with httpx2.AsyncClient(base_url=door.address, http1=False, http2=True, timeout=30) as client:
        posted = [client.post(MESSAGES, content=b"x" * 100_000) for _ in range(20)]
        posts = await asyncio.gather(*posted)
        assert {answer.http_version for answer in posts} == {"HTTP/2"}
        assert sorted(answer.json()["offset"] for answer in posts) == list(range(1, 21))
        page = await client.get(MESSAGES)
        assert page.json()["next"] == 20
        async with client.stream("GET", "/api/topics/t/stream?after=19") as stream:
            lines = stream.aiter_lines()
            assert [await anext(lines) for _ in range(4)] == ["id: 19", "", "id: 20", "event: message"]


async def test_probes_bring_no_credential(guarded: RestDoor) -> None:
    """HTTP/2 tells of a body only by sending one; without one, probes are answered as over HTTP/1.1."""
    async with http2(guarded) as client:
        for path, status in (("/livez", 200), ("/readyz", 200), ("/readyz?verbose", 401), ("/api/data", 401)):
            assert await client.status(await client.ask("GET", path)) == status
        at_once = await client.ask("GET", "/livez", ("content-length", "9"), end=False)
        assert await client.status(at_once) == 401
        later = await client.ask("GET", "/livez", end=False)
        client.protocol.send_data(later, b"x")
        await client.flush()
        assert await client.status(later) == 401
        assert guarded.intake.bodies.used == 0
        for stream in (at_once, later):
            client.protocol.reset_stream(stream)
        await client.flush()
    await until(lambda: guarded.intake.refused == guarded.intake.requests == 0)


async def test_strangers_take_no_places(guarded: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are refused, and may go on sending, are not among those that are bounded: they are over."""
    monkeypatch.setattr(guarded.intake, "_max_requests", 2)
    async with http2(guarded) as client:
        for announced in ([("content-length", "9")], []):
            streams = [await client.ask("POST", MESSAGES, *announced, end=False) for _ in range(2)]
            assert [await client.status(stream) for stream in streams] == [401, 401]
            for stream in streams:
                await client.until(h2.events.StreamEnded, stream)
        async with httpx2.AsyncClient(base_url=guarded.address, timeout=30) as http:
            assert (await http.get("/livez")).status_code == 200
            assert (await http.post("/api/data", content=b"{}")).status_code == 401
    await until(lambda: guarded.intake.refused == guarded.intake.requests == 0)


async def test_answers_early_and_reads_on(door: RestDoor) -> None:
    """An early answer does not cost the other streams of the connection, nor what is still being sent."""
    async with http2(door) as client:
        stream = await client.ask("POST", MESSAGES, ("content-length", "100000000"), end=False)
        assert await client.status(stream) == 413
        await client.until(h2.events.StreamEnded, stream)  # who stops sending by now would wait for it
        for _ in range(50):
            while client.protocol.local_flow_control_window(stream) < 16384:
                await client.until(h2.events.WindowUpdated)
            client.protocol.send_data(stream, b"x" * 16384)
            await client.flush()
        other = await client.ask("GET", "/livez")
        assert await client.status(other) == 200
        client.protocol.reset_stream(stream)
        await client.flush()
    await until(lambda: door.intake.requests == 0)


async def test_lets_who_waits_for_it_go_on(door: RestDoor) -> None:
    """`Expect: 100-continue` is answered with 100, and then with the outcome; where there is no body, at once."""
    async with http2(door) as client:
        expects = ("expect", "100-Continue")
        stream = await client.ask("POST", MESSAGES, expects, ("content-length", "1"), end=False)
        told = await client.until(h2.events.InformationalResponseReceived, stream)
        assert isinstance(told, h2.events.InformationalResponseReceived)
        assert told.headers == [(b":status", b"100")]
        client.protocol.send_data(stream, b"x", end_stream=True)
        await client.flush()
        assert await client.status(stream) == 201
        assert await client.status(await client.ask("GET", "/livez", expects)) == 200
        assert not any(isinstance(event, h2.events.InformationalResponseReceived) for event in client.events)


async def test_forgets_streams_that_are_reset(door: RestDoor, service: LocalService) -> None:
    """A stream that the client resets ends its follower."""
    async with http2(door) as client:
        stream = await client.ask("GET", "/api/topics/t/stream")
        await client.until(h2.events.DataReceived, stream)
        assert service.streams == 1
        client.protocol.reset_stream(stream)
        await client.flush()
        await until(lambda: service.streams == 0)


async def test_cuts_a_client_that_opens_no_window(door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes none of its answer loses the connection."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.1)
    async with http2(door, window=0) as client:
        await client.ask("GET", "/livez")
        async with asyncio.timeout(20):
            await client.closed()
    assert door.intake.requests == 0


async def test_refuses_long_headers(door: RestDoor) -> None:
    """More than 32 KiB of headers are 431 here as well."""
    async with http2(door) as client:
        headers = [(f"x-{number}", "x" * 8000) for number in range(5)]
        assert await client.status(await client.ask("GET", "/livez", *headers)) == 431


async def test_heeds_no_priorities(door: RestDoor) -> None:
    """Any number of streams may be given one, as clients of old do also for streams that ended or never began."""
    async with http2(door) as client:
        stream = await client.ask("GET", f"{MESSAGES}?wait=60")
        for number in range(1200):
            client.protocol.prioritize(stream + 2 * number, weight=7)
        await client.flush()
        assert await client.status(await client.ask("GET", "/livez")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "GET"), (":path", "/ä"), (":scheme", "http")],
        [(":method", "GÄT"), (":path", "/"), (":scheme", "http")],
        [(":method", "CONNECT")],
        [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/livez"), (":scheme", "http")],
        [(":method", "connect"), (":path", "/livez"), (":scheme", "http")],
        [(":method", "get"), (":path", "/livez"), (":scheme", "http")],
    ],
)
async def test_resets_a_stream_without_a_path_or_method(door: RestDoor, headers: list[tuple[str, str]]) -> None:
    """One that is not ASCII, in lower case or CONNECT costs its own stream; those of others, behind a proxy, go on."""
    async with http2(door) as client:
        stream = client.protocol.get_next_available_stream_id()
        client.protocol.send_headers(stream, [*headers, (":authority", "x")], end_stream=True)
        await client.flush()
        reset = await client.until(h2.events.StreamReset, stream)
        assert isinstance(reset, h2.events.StreamReset)
        assert reset.error_code == ErrorCodes.PROTOCOL_ERROR
        assert await client.status(await client.ask("GET", "/livez")) == 200
        assert not client.protocol.remote_settings.enable_connect_protocol


class TestLibraries:
    """Of HTTP/2, which are imported at the first connection that speaks it."""

    async def test_nobody_else_waits_for_them(self, door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests over HTTP/1.1 are answered meanwhile, and then those over HTTP/2, by one import."""
        asked, may_go_on = [], threading.Event()

        def slow(name: str) -> ModuleType:
            asked.append(name)
            assert may_go_on.wait(20)
            return import_module(name)

        monkeypatch.setattr("transports.rest.http2.import_module", slow)
        async with (
            http2(door) as first,
            http2(door) as second,
            httpx2.AsyncClient(base_url=door.address, timeout=30) as http,
        ):
            streams = [await client.ask("GET", "/livez") for client in (first, second)]
            await until(lambda: len(door._server._connections) == 2 and bool(asked))
            assert (await http.get("/livez")).status_code == 200
            may_go_on.set()
            assert [await first.status(streams[0]), await second.status(streams[1])] == [200, 200]
        assert len(asked) == 1

    async def test_cost_only_their_own_connections_where_they_are_broken(
        self, door: RestDoor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What can't be imported ends a connection, and leaves HTTP/1.1 alone."""
        monkeypatch.setitem(sys.modules, "transports.rest.http2_talks", None)
        async with http2(door) as client, asyncio.timeout(20):
            await client.closed()
        await until(lambda: len(door._server._connections) == 0)
        async with httpx2.AsyncClient(base_url=door.address, timeout=30) as http:
            assert (await http.get("/livez")).status_code == 200

    async def test_hold_up_no_end(self, door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
        """A door that closes meanwhile drops the connections that wait for them."""
        monkeypatch.setattr(serving, "_ABORT_SECONDS", 0.1)
        may_go_on = threading.Event()
        monkeypatch.setattr("transports.rest.http2.import_module", lambda _: may_go_on.wait(20))
        async with http2(door) as client:
            await until(lambda: len(door._server._connections) == 1)
            await door._server.close(0.1)
            assert len(door._server._connections) == 0
            async with asyncio.timeout(20):
                with suppress(ConnectionResetError):
                    await client.closed()
        may_go_on.set()


class TestSlowSenders:
    """Against a short deadline for bodies."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, rest_body_seconds=0.1)

    async def test_cost_only_their_own_stream(self, door: RestDoor) -> None:
        """Data that comes after the deadline is thrown away, and other streams go on."""
        async with http2(door) as client:
            stream = await client.ask("POST", MESSAGES, end=False)
            assert await client.status(stream) == 408
            await client.until(h2.events.StreamEnded, stream)
            client.protocol.send_data(stream, b"late", end_stream=True)
            await client.flush()
            other = await client.ask("GET", "/livez")
            assert await client.status(other) == 200
