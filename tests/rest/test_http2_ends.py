"""How streams and connections of HTTP/2 end: whole, reset, lost, or because the door closes."""

import asyncio
from collections.abc import Callable
from typing import Any

import h2.events
import pytest
from h2.errors import ErrorCodes
from starlette.types import Receive, Scope, Send

from core.messages import new_message
from core.service import LocalService
from tests.rest.test_http2 import MESSAGES, Http2, http2
from tests.rest.wire import connected, until
from transports.rest import connections
from transports.rest.door import RestDoor
from transports.rest.http2 import Http2Connection
from transports.rest.serving import HttpServer

STREAM = "/api/topics/t/stream"
WAIT = f"{MESSAGES}?wait=60"


def only(door: RestDoor) -> Http2Connection:
    """The server's side of the one connection."""
    (connection,) = (one for one in door._server._connections if isinstance(one, Http2Connection))
    return connection


def held(door: RestDoor) -> int:
    """The bytes that wait for clients' windows."""
    talks: list[Any] = [getattr(one, "talk", None) for one in door._server._connections]
    return sum(len(buffer.buffer) for talk in talks if talk for buffer in talk.protocol.stream_buffers.values())


@pytest.mark.parametrize("path", [STREAM, WAIT])
async def test_ends_whole_when_the_door_closes(door: RestDoor, service: LocalService, path: str) -> None:
    """What is open gets its end, then the connection does, at once, though the client keeps its side open."""
    async with http2(door) as client:
        streams = [await client.ask("GET", path) for _ in range(3)]
        await until(lambda: service.streams == 3)
        service.drain()
        async with asyncio.timeout(4):
            await door.__aexit__(None, None, None)
            for stream in streams:
                await client.until(h2.events.StreamEnded, stream)
            await client.until(h2.events.ConnectionTerminated)
            await client.closed()


@pytest.mark.parametrize("requests", [0, 1])
async def test_says_goodbye_to_who_idles(door: RestDoor, requests: int) -> None:
    """A client whose request crosses the end of its connection learns that nobody saw it, and may repeat it."""
    async with http2(door) as client:
        for _ in range(requests):
            await client.until(h2.events.StreamEnded, await client.ask("GET", "/livez"))
        await client.until(h2.events.RemoteSettingsChanged)
        client.protocol.ping(b"all read")
        await client.flush()
        await client.until(h2.events.PingAckReceived)
        await until(lambda: only(door).idle_since is not None)
        only(door).end()
        goodbye = await client.until(h2.events.ConnectionTerminated)
        assert isinstance(goodbye, h2.events.ConnectionTerminated)
        assert (goodbye.error_code, goodbye.last_stream_id) == (ErrorCodes.NO_ERROR, requests)
        await client.closed()


async def test_waits_for_a_window_when_the_door_closes(door: RestDoor, service: LocalService) -> None:
    """What the client has not made room for yet is no lost end."""
    await service.publish("t", [new_message(b"x" * 100_000)])
    async with http2(door, window=10) as client:
        stream = await client.ask("GET", f"{MESSAGES}/1")
        await until(lambda: held(door) > 0)
        service.drain()
        closing = asyncio.create_task(door.__aexit__(None, None, None))
        await until(lambda: door._server._connections.closing)
        client.protocol.increment_flow_control_window(1_000_000, stream)
        client.protocol.increment_flow_control_window(1_000_000)
        await client.flush()
        async with asyncio.timeout(4):
            await client.until(h2.events.StreamEnded, stream)
            await closing


async def test_refuses_what_comes_while_it_closes(door: RestDoor, service: LocalService) -> None:
    """A request on a connection that ends is refused as unseen, so that the client may repeat it elsewhere."""
    await service.publish("t", [new_message(b"x" * 100_000)])
    async with http2(door, window=10) as client:
        await client.ask("GET", f"{MESSAGES}/1")
        await until(lambda: held(door) > 0)
        closing = asyncio.create_task(door.__aexit__(None, None, None))
        await until(lambda: door._server._connections.closing)
        stream = await client.ask("POST", MESSAGES, end=False)
        refused = await client.until(h2.events.StreamReset, stream)
        assert isinstance(refused, h2.events.StreamReset)
        assert refused.error_code == ErrorCodes.REFUSED_STREAM
    await closing


async def test_idles_after_a_reset(door: RestDoor, service: LocalService) -> None:
    """A connection whose last stream was reset is as idle as one whose last stream ended."""
    async with http2(door) as client:
        stream = await client.ask("GET", STREAM)
        await client.until(h2.events.DataReceived, stream)
        connection = only(door)
        assert connection.idle_since is None
        client.protocol.reset_stream(stream)
        await client.flush()
        await until(lambda: connection.idle_since is not None and service.streams == 0)


async def test_forgets_all_of_what_was_reset(door: RestDoor, service: LocalService) -> None:
    """Any number of streams may be reset before they are answered, without a trace and without harm to others."""
    async with http2(door) as client:
        kept = await client.ask("GET", STREAM)
        for _ in range(60):
            streams = [await client.ask("GET", WAIT) for _ in range(20)]
            await until(lambda: service.streams == 21)
            for stream in streams:
                client.protocol.reset_stream(stream)
            await client.flush()
            await until(lambda: service.streams == 1)
        assert await client.status(await client.ask("GET", "/livez")) == 200
        await until(lambda: list(only(door).talk.protocol.stream_buffers) == [kept])


async def test_holds_little_for_a_follower_that_opens_no_window(
    door: RestDoor, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is not heaped up for it; in time it loses the connection."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 1.0)
    async with http2(door, window=100) as client:
        await client.ask("GET", f"{STREAM}?after=0")
        await client.until(h2.events.DataReceived)
        for _ in range(100):
            await service.publish("t", [new_message(b"x" * 40_000)])
            assert held(door) < 200_000
        await until(lambda: service.streams == 0)


@pytest.mark.parametrize("leave", [Http2.vanish, Http2.reset_all])
async def test_lets_go_of_an_answer_that_nobody_takes(
    door: RestDoor, service: LocalService, leave: Callable[[Http2], None]
) -> None:
    """Who leaves in the middle of an answer gives its place back at once."""
    await service.publish("t", [new_message(b"x" * 900_000)])
    async with http2(door, window=10) as client:
        await client.ask("GET", f"{MESSAGES}/1")
        await until(lambda: held(door) > 0)
        leave(client)
        await until(lambda: door.intake.requests == 0)


async def test_drops_who_speaks_it_past_the_bound(door: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that had a place, and says only then what it speaks, ends without more ado."""
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with connected(door) as wire:
        await until(lambda: len(door._server._connections) == 1)
        monkeypatch.setattr(connections.Connections, "overfull", True)
        await wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await wire.closed() == b""
        await until(lambda: len(door._server._connections) == 0)
    assert failures == []


async def test_resets_half_an_answer() -> None:
    """An application that ends before its answer does not leave the client waiting, or taking it for whole."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})

    server = HttpServer(app, max_connections=10)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
    client = Http2(reader, writer, "localhost")
    client.protocol.initiate_connection()
    async with asyncio.timeout(20):
        await client.until(h2.events.StreamReset, await client.ask("GET", "/"))
    writer.close()
    await server.close(2)


async def test_goes_on_after_an_answer_that_waited_for_no_body() -> None:
    """What a client has sent of a body, in however many frames, holds up neither the end of the stream nor others."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    server = HttpServer(app, max_connections=10)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
    client = Http2(reader, writer, "localhost")
    client.protocol.initiate_connection()
    async with asyncio.timeout(20):
        stream = await client.ask("POST", "/", end=False, parts=[b"x"] * 50)
        await client.until(h2.events.StreamEnded, stream)
        await client.until(h2.events.StreamEnded, await client.ask("GET", "/"))
    writer.close()
    await until(lambda: len(server._connections) == 0)
    await server.close(2)
