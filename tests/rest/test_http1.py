"""HTTP/1.1 as any application has it: framing, back-pressure, and ends."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from core.service import LocalService
from tests.rest.wire import Wire, connected, exchanged, request, until
from transports.rest import connections
from transports.rest.door import RestDoor
from transports.rest.exchange import EXCHANGE
from transports.rest.http1 import Http1
from transports.rest.parsing import HEADER_BYTES
from transports.rest.presence import ClientGone
from transports.rest.serving import HttpServer

MESSAGES = "/api/topics/t/messages"
GET = request("GET", "/")
START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch) -> list[Http1]:
    """The server's side of every connection."""
    found: list[Http1] = []
    made = Http1.connection_made

    def connection_made(self: Http1, transport: Any) -> None:
        found.append(self)
        made(self, transport)

    monkeypatch.setattr(Http1, "connection_made", connection_made)
    return found


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """A server of an application; what is answered to bytes that are sent to it."""
    server = HttpServer(app, max_connections=100)
    port = await server.listen("127.0.0.1", 0)

    async def ask(data: bytes) -> bytes:
        return await exchanged("127.0.0.1", port, data)

    try:
        yield ask
    finally:
        await server.close(2)


@asynccontextmanager
async def wired(app: ASGIApp) -> AsyncIterator[Wire]:
    server = HttpServer(app, max_connections=100)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        await server.close(2)


async def test_writes_each_response_at_once(door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body leave in one write, with a date, a reason and the length, and no word about the server."""
    written: list[tuple[bytes, ...]] = []
    write = Http1.write

    def counted(self: Http1, *data: bytes) -> None:
        written.append(data)
        write(self, *data)

    monkeypatch.setattr(Http1, "write", counted)
    async with connected(door) as wire:
        await wire.send(request("GET", "/livez"))
        reply = await wire.reply()
    assert len(written) == 1
    assert written[0][0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert sorted(reply.headers) == [
        "cache-control",
        "content-length",
        "content-security-policy",
        "content-type",
        "date",
        "x-content-type-options",
        "x-request-id",
    ]


async def test_leaves_the_body_out_for_head(door: RestDoor) -> None:
    """HEAD gets the head that GET would get, and nothing else."""
    async with connected(door) as wire:
        await wire.send(request("GET", "/livez"))
        full = await wire.reply()
        await wire.send(request("HEAD", "/livez") + request("HEAD", "/api/topics/t/stream", "Connection: close"))
        heads = (await wire.closed()).split(b"\r\n\r\n")
    assert f"content-length: {full.headers['content-length']}".encode() in heads[0]
    assert b"text/event-stream" in heads[1]
    assert heads[2:] == [b""]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD / HTTP/1.1\r\n\r\n", b"400"),
        (b"\r\nHEAD / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * HEADER_BYTES, b"431"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnone", b"400"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n", b"500"),
    ],
)
async def test_refuses_head_without_a_body_too(data: bytes, status: bytes) -> None:
    """Where the connection answers by itself, a body would be taken for the next response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    async with served(app) as ask:
        answer = await ask(data)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"\r\ncontent-length: " in answer
        assert answer.endswith(b"\r\n\r\n")


async def test_asks_for_a_body_only_if_it_wants_it(door: RestDoor) -> None:
    """`100 Continue` is sent neither before a refusal nor when the body is there already."""
    expects = "Expect: 100-continue"
    async with connected(door) as wire:
        await wire.send(request("POST", MESSAGES, expects, body=b"abc"))
        assert (await wire.reader.readline()).startswith(b"HTTP/1.1 201")
    async with connected(door) as wire:
        await wire.send(request("POST", MESSAGES, expects, "Content-Length: 100000000"))
        assert (await wire.reader.readline()).startswith(b"HTTP/1.1 413")


async def test_holds_what_is_sent_ahead_within_bounds(
    door: RestDoor, service: LocalService, protocols: list[Http1]
) -> None:
    """Of requests behind one that waits, no more than a read of the socket is taken in; all are answered in the end."""
    count = 5_000
    async with connected(door) as wire:
        await wire.send(request("GET", f"{MESSAGES}?wait=60"))
        await until(lambda: service.streams == 1)
        wire.writer.write(request("GET", "/livez") * count)
        (protocol,) = protocols
        await until(lambda: protocol._is_paused)
        assert len(protocol._parser.unread) <= 512 * 1024
        service.drain()
        wire.writer.write_eof()
        assert (await wire.closed()).count(b"HTTP/1.1 200 OK") == count + 1


async def test_holds_a_body_within_bounds(protocols: list[Http1]) -> None:
    """A body that the application does not ask for stays with the client; nothing of it is lost."""
    size = 20_000_000
    go_on = asyncio.Event()
    taken: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["extensions"][EXCHANGE].rest() is None
        await go_on.wait()
        more = True
        while more:
            event = await receive()
            taken.append(len(event["body"]))
            more = event["more_body"]
        await send(START)
        await send({"type": "http.response.body", "body": b"%d" % sum(taken)})

    async with wired(app) as wire:
        wire.writer.write(request("POST", "/", body=b"x" * size))
        await until(lambda: bool(protocols) and protocols[0]._is_paused)
        go_on.set()
        assert (await wire.reply()).body == b"%d" % size
    assert max(taken) < 1024 * 1024


async def test_tells_a_body_in_one_event() -> None:
    """What came at once is told at once, and that it is all; after the response there is only the disconnect."""
    events: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events.append(await receive())
        assert scope["extensions"][EXCHANGE].rest() is None
        await send(START)
        await send({"type": "http.response.body"})
        events.append(await receive())

    async with served(app) as ask:
        await ask(request("POST", "/", body=b"abc"))
    assert events == [{"type": "http.request", "body": b"abc", "more_body": False}, {"type": "http.disconnect"}]


async def test_gives_a_body_that_is_here_without_waiting() -> None:
    """A whole body can be had at once; what was had so is not told again."""
    found: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope["extensions"][EXCHANGE].rest())
        await send(START)
        await send({"type": "http.response.body"})
        found.append(await receive())

    async with served(app) as ask:
        await ask(request("POST", "/", body=b"abc"))
    assert found == [b"abc", {"type": "http.disconnect"}]


async def test_sends_a_whole_response_in_one_step() -> None:
    """It is framed like one that comes in events, and there is only one to a request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope["extensions"][EXCHANGE]
        await exchange.respond(200, [(b"content-length", b"3")], b"abc")
        for again in (exchange.respond(200, [], b"def"), send(START)):
            with pytest.raises(RuntimeError):
                await again

    async with wired(app) as wire:
        for _ in range(2):
            wire.writer.write(request("GET", "/"))
            assert (await wire.reply()).body == b"abc"
            wire.again()


async def test_frames_what_has_no_length() -> None:
    """A response of unknown length is chunked, for HTTP/1.0 it ends with the connection; 204 has neither."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = 204 if scope["path"] == "/none" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"d", "more_body": False})

    async with served(app) as ask:
        chunked = await ask(GET)
        assert b"transfer-encoding: chunked" in chunked
        assert chunked.endswith(b"\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
        closed = await ask(GET.replace(b"1.1", b"1.0"))
        assert b"connection: close" in closed
        assert closed.endswith(b"\r\n\r\nabcd")
        none = await ask(request("GET", "/none"))
        assert none.startswith(b"HTTP/1.1 204 No Content\r\n")
        assert b"chunked" not in none
        assert none.endswith(b"\r\n\r\n")


async def test_answers_for_an_application_that_does_not() -> None:
    """No response is an `internal` problem; half of one is cut off, so that nobody takes it for whole."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/half":
            await send(START)
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        if scope["path"] == "/split":
            await send({**START, "headers": [(b"x", b"a\r\nset-cookie: b")]})
            await send({"type": "http.response.body"})

    async with served(app) as ask:
        nothing = await ask(GET + GET)
        assert nothing.count(b"HTTP/1.1 500 ") == 1
        assert b'"code":"internal"' in nothing
        assert not (await ask(request("GET", "/half"))).endswith(b"0\r\n\r\n")
        split = await ask(request("GET", "/split"))
        assert b" 500 " in split
        assert b"set-cookie" not in split


async def test_takes_a_head_of_exactly_the_limit(door: RestDoor) -> None:
    """32 KiB from the first byte to the empty line, in whatever parts they come; one byte more is 431."""
    short = len(request("GET", "/livez", "X: "))
    for size, status in ((HEADER_BYTES, 200), (HEADER_BYTES + 1, 431)):
        head = request("GET", "/livez", f"X: {'x' * (size - short)}")
        assert len(head) == size
        async with connected(door) as wire:
            for at in range(0, size, 5000):
                await wire.send(head[at : at + 5000])
                await asyncio.sleep(0)
            assert (await wire.reply()).status == status


async def test_closes_politely(door: RestDoor) -> None:
    """Who asked for the end sees it, and may still be sending: the response is not lost to a reset."""
    async with connected(door) as wire:
        await wire.send(request("GET", "/livez", "Connection: close") + b"x" * 300_000)
        reply = await wire.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await wire.closed() == b""


async def test_survives_a_reset_before_the_end() -> None:
    """A client that resets the connection while it is half closed costs no more than itself."""
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    tasks: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        await send({**START, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    server = HttpServer(app, max_connections=10)
    client = socket.create_connection(("127.0.0.1", await server.listen("127.0.0.1", 0)))
    client.sendall(request("GET", "/", "Connection: close"))
    await until(lambda: bool(tasks) and len(server._connections) == 0)
    await tasks[0]
    await server.close(2)
    assert failures == []


async def test_waits_for_no_room_on_a_lost_connection() -> None:
    """An application that goes on, though it was told, is told again at once."""
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        part = {"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True}
        with suppress(ClientGone):
            while True:
                await send(part)
        with suppress(ClientGone):
            await send({**part, "body": b""})
        told.set()

    async with wired(app) as wire:
        await wire.send(GET)
        await wire.reader.readexactly(100_000)
        wire.writer.transport.abort()
        async with asyncio.timeout(20):
            await told.wait()


async def test_ends_with_the_response_that_is_under_way() -> None:
    """A server that closes says so in the responses that it still begins."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await go_on.wait()
        await send({**START, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    server = HttpServer(app, max_connections=10)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
    wire = Wire(reader, writer)
    await wire.send(GET + GET)
    await begun.wait()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.close(10))
        await asyncio.sleep(0)
        go_on.set()
        assert (await wire.reply()).headers["connection"] == "close"
        assert await wire.closed() == b""
    writer.close()


async def test_drops_who_reads_nothing(door: RestDoor, service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes no answers loses the connection, and holds nothing."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.1)
    async with connected(door) as wire:
        await wire.send(request("POST", MESSAGES, body=b"x" * 190_000))
        await wire.reply()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket can
        wire.writer.write(request("GET", f"{MESSAGES}/1") * 200)
        await until(lambda: len(door._server._connections) == 0)
    assert door.intake.requests == 0
