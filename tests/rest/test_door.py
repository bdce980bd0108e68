"""Starting and stopping the door, and what it tells of itself while it runs."""

import asyncio
import socket
from contextlib import AsyncExitStack

import httpx2
import msgspec
import pytest

from core.gate import OpenGate
from core.health import Health, State
from core.keys import KeyRing
from core.messages import new_message
from core.service import LocalService
from core.settings import Settings
from tests.rest.wire import connected, request, until
from transports.rest import connections, serving
from transports.rest.door import RestDoor

_AT_ONCE = 8.0  # Seconds: less than the 10 for which a door waits for what does not end, and time for a slow machine.


async def test_tells_its_real_port(door: RestDoor, http: httpx2.AsyncClient) -> None:
    """Port 0 takes a free one, which the address names; nothing tells what serves."""
    answer = await http.get("/livez")
    assert not door.address.endswith(":0")
    assert answer.json() == {"status": "ok"}
    assert "server" not in answer.headers
    assert "date" in answer.headers


async def test_refuses_a_port_that_is_taken(
    door: RestDoor, service: LocalService, health: Health, settings: Settings
) -> None:
    """A busy port is an `OSError` that names the address."""
    port = int(door.address.rpartition(":")[2])
    other = RestDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, rest_port=port), "1")
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        await other.__aenter__()


async def test_listens_on_every_address_of_a_name(service: LocalService, health: Health, settings: Settings) -> None:
    """A name may stand for several addresses; all have the same port."""
    local = msgspec.structs.replace(settings, rest_host="localhost")
    async with RestDoor(OpenGate(service, settings), health, local, "1") as door:
        port = int(door.address.rpartition(":")[2])
        for address in {str(info[4][0]) for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}:
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(request("GET", "/livez"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_is_ready_while_nothing_failed(http: httpx2.AsyncClient, health: Health) -> None:
    """Readiness follows the checks; `?verbose` names them; a part that is impaired is no reason to be unready."""
    health.report("relay", State.DEGRADED, "the broker is away")
    assert (await http.get("/readyz")).json() == {"status": "ok"}
    verbose = (await http.get("/readyz?verbose")).json()
    assert verbose["checks"]["relay"] == {"state": "degraded", "detail": "the broker is away"}
    health.report("store", State.FAILED, "the disk is gone")
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.json()["detail"] == "failed: store"
    assert answer.headers["retry-after"] == "1"
    assert (await http.get("/readyz?verbose")).json()["checks"]["store"]["state"] == "failed"
    assert (await http.get("/livez")).status_code == 200


async def test_tells_details_to_principals(guarded: RestDoor, health: Health, keys: KeyRing) -> None:
    """Where authentication is required, addresses and errors are not for strangers; whether it is ready is."""
    health.report("broker", State.DEGRADED, "amqp://shop@192.0.2.1: refused")
    _, key = await keys.create("shop")
    async with httpx2.AsyncClient(base_url=guarded.address, timeout=30) as http:
        assert (await http.get("/readyz")).json() == {"status": "ok"}
        assert (await http.get("/livez", headers={"Content-Length": "0"})).json() == {"status": "ok"}
        for headers in ({}, {"X-API-Key": "trv_nonsense"}):
            refused = await http.get("/readyz?verbose", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
            assert "192.0.2.1" not in refused.text
        told = await http.get("/readyz?verbose", headers={"X-API-Key": key})
        assert told.json()["checks"]["broker"]["detail"] == "amqp://shop@192.0.2.1: refused"


async def test_is_not_ready_while_it_drains(http: httpx2.AsyncClient, health: Health) -> None:
    """A service that is ending tells so, and still lives."""
    health.drain()
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/livez")).status_code == 200


async def test_leaves_at_once_with_idle_connections(service: LocalService, health: Health, settings: Settings) -> None:
    """Connections that are kept alive, of either version, do not delay the end."""
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1") as door,
        connected(door) as fresh,
        connected(door) as used,
    ):
        await used.send(request("GET", "/livez"))
        await used.reply()
        async with httpx2.AsyncClient(base_url=door.address, http1=False, http2=True) as second:
            await second.get("/livez")
            async with asyncio.timeout(_AT_ONCE):
                await door.__aexit__(None, None, None)
            assert await fresh.closed() == b""
            assert await used.closed() == b""


async def test_ends_streams_and_leaves(service: LocalService, health: Health, settings: Settings) -> None:
    """Streams and waiting reads end with the drain; then the door leaves without delay."""
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1") as door,
        connected(door) as one,
        connected(door) as two,
    ):
        await one.send(request("GET", "/api/topics/t/stream"))
        await two.send(request("GET", "/api/topics/t/messages?wait=60"))
        await until(lambda: service.streams == 2)
        health.drain()
        service.drain()
        async with asyncio.timeout(_AT_ONCE):
            await door.__aexit__(None, None, None)
        assert (await one.reply()).body == b"id: 0\n\n"
        assert (await two.reply()).json() == {"messages": [], "next": 0}


async def test_finishes_what_is_in_flight(
    service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish that is under way is answered before the door is closed."""
    committed = asyncio.Event()
    begun = asyncio.Event()
    publish = service.publish

    async def slow(topic: str, messages: object) -> object:
        begun.set()
        await committed.wait()
        return await publish(topic, [new_message(b"x")])

    monkeypatch.setattr(service, "publish", slow)
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1") as door,
        connected(door) as wire,
        asyncio.TaskGroup() as group,
    ):
        await wire.send(request("POST", "/api/topics/t/messages", body=b"x"))
        await begun.wait()
        leaving = group.create_task(door.__aexit__(None, None, None))
        await asyncio.sleep(0)
        committed.set()
        assert (await wire.reply()).status == 201
        await leaving
        assert await wire.closed() == b""


async def test_does_not_wait_for_bodies_when_it_leaves(
    service: LocalService, health: Health, settings: Settings
) -> None:
    """A request whose body has not arrived has had no effect, and is told so."""
    async with RestDoor(OpenGate(service, settings), health, settings, "1") as door, connected(door) as wire:
        await wire.send(request("POST", "/api/topics/t/messages", "Content-Length: 10") + b"half")
        await until(lambda: door.intake.bodies.used > 0)
        async with asyncio.timeout(_AT_ONCE):
            await door.__aexit__(None, None, None)
        assert (await wire.reply()).json()["code"] == "unavailable"


async def test_drops_what_does_not_end(
    service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its share of the drain time the door drops what is left."""

    async def stuck(topic: str | None = None) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service, "get_data", stuck)
    monkeypatch.setattr(serving, "_ABORT_SECONDS", 0.1)
    hasty = msgspec.structs.replace(settings, drain_seconds=0.2)
    async with RestDoor(OpenGate(service, settings), health, hasty, "1") as door, connected(door) as wire:
        await wire.send(request("GET", "/api/data"))
        await until(lambda: door.intake.requests > 0)
        await door.__aexit__(None, None, None)
        assert await wire.closed() == b""
        assert door.intake.requests == 0


async def test_waits_until_it_is_closed(service: LocalService, health: Health, settings: Settings) -> None:
    """`wait` returns once the door has ended."""
    async with RestDoor(OpenGate(service, settings), health, settings, "1") as door:
        waiting = asyncio.ensure_future(door.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        await door.__aexit__(None, None, None)
        await waiting


async def test_closes_idle_connections(
    service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without a request, or with half of one's head, is closed after a while."""
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.02)
    async with RestDoor(OpenGate(service, settings), health, settings, "1") as door, AsyncExitStack() as stack:
        silent, slow, used, second = [await stack.enter_async_context(connected(door)) for _ in range(4)]
        await slow.send(b"GET /livez HTTP/1.1\r\nHost")
        await used.send(request("GET", "/livez"))
        await used.reply()
        await second.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        for wire in (silent, slow, used, second):
            async with asyncio.timeout(20):
                await wire.closed()


async def test_bounds_connections(
    service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound a connection is answered with `overloaded` and closed; the open ones go on."""
    monkeypatch.setattr("transports.rest.door._CONNECTIONS", 0)
    few = msgspec.structs.replace(settings, max_streams=1)
    async with RestDoor(OpenGate(service, settings), health, few, "1") as door, connected(door) as one:
        await one.send(request("GET", "/livez"))
        assert (await one.reply()).status == 200
        async with connected(door) as two:
            reply = await two.reply()
            assert (reply.status, reply.json()["code"]) == (429, "overloaded")
            assert reply.headers["retry-after"] == "1"
        one.again()
        await one.send(request("GET", "/livez"))
        assert (await one.reply()).status == 200
