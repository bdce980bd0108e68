"""Taking requests in: limits, deadlines, and answers that come before a body has been read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from starlette.types import Message

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from tests.rest.wire import Wire, connected, request, until
from transports.rest import intake
from transports.rest.answers import REQUEST_ID, Answer, Budget, Sender
from transports.rest.door import RestDoor
from transports.rest.parsing import HEADER_BYTES

MESSAGES = "/api/topics/t/messages"
LIMIT = 200_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, rest_body_bytes=LIMIT)


@pytest.fixture
async def wire(door: RestDoor) -> AsyncIterator[Wire]:
    async with connected(door) as wire:
        yield wire


async def test_takes_a_body_at_the_limit(wire: Wire) -> None:
    """A body of exactly the limit is published."""
    await wire.send(request("POST", MESSAGES, body=b"x" * LIMIT))
    assert (await wire.reply()).status == 201


async def test_refuses_one_byte_more(wire: Wire, service: LocalService) -> None:
    """One byte over is `too_large`, and the connection can be used again."""
    body = b"x" * (LIMIT + 1)
    await wire.send(request("POST", MESSAGES, body=body))
    reply = await wire.reply()
    assert (reply.status, reply.json()["code"], reply.json()["field"]) == (413, "too_large", "body")
    assert str(LIMIT) in reply.json()["detail"]
    assert (await service.list_topics()).topics == ()
    wire.again()
    await wire.send(request("GET", "/livez"))
    assert (await wire.reply()).status == 200


async def test_refuses_one_byte_more_of_unknown_length(wire: Wire, service: LocalService) -> None:
    """A chunked body is refused as soon as it passes the limit."""
    await wire.send(request("POST", MESSAGES, "Transfer-Encoding: chunked"))
    await wire.send(b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1)))
    assert (await wire.reply()).status == 413
    assert (await service.list_topics()).topics == ()


async def test_answers_before_an_oversized_body_has_come(wire: Wire) -> None:
    """Who says that a body will be too large is told at once."""
    await wire.send(request("POST", MESSAGES, "Content-Length: 1000000000"))
    assert (await wire.reply()).status == 413


async def test_answers_who_expects_to_continue(wire: Wire) -> None:
    """`Expect: 100-continue` is answered with 100, and then with the outcome."""
    await wire.send(request("POST", MESSAGES, "Expect: 100-continue", "Content-Length: 1"))
    assert await wire.reader.readuntil(b"\r\n\r\n") != b""
    await wire.send(b"x")
    assert (await wire.reply()).status == 201


async def test_throws_an_endless_body_away(door: RestDoor, wire: Wire) -> None:
    """Of a body that never ends nothing is kept beyond the limit."""
    await wire.send(request("POST", MESSAGES, "Transfer-Encoding: chunked"))
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    for _ in range(200):
        await wire.send(chunk)
    assert (await wire.reply()).status == 413
    assert door.intake.bodies.used == 0
    await wire.send(b"0\r\n\r\n")  # the rest has been read as well, so that the connection goes on
    wire.again()
    await wire.send(request("GET", "/livez"))
    assert (await wire.reply()).status == 200


async def test_answers_early_without_blocking(door: RestDoor) -> None:
    """Clients that send a body in crumbs to where none is wanted are answered, and leave nothing open."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connected(door)) for _ in range(50)]
        for wire in wires:
            await wire.send(request("POST", "/nope", "Content-Length: 130"))
            for _ in range(130):
                wire.writer.write(b"x")
        assert {(await wire.reply()).status for wire in wires} == {404}
    await until(lambda: door.intake.requests == 0)


async def test_serves_pipelined_requests_in_order(wire: Wire) -> None:
    """Requests that are sent without waiting are answered one after another."""
    await wire.send(request("POST", MESSAGES, body=b"a") + request("GET", "/livez") + request("GET", "/nope"))
    statuses = []
    for _ in range(3):
        statuses.append((await wire.reply()).status)
        wire.again()
    assert statuses == [201, 200, 404]


async def test_takes_an_absolute_target(wire: Wire) -> None:
    """A request line as for a proxy names the same resource."""
    await wire.send(b"GET http://trivium.example/api/topics/a%2Db/messages?limit=1 HTTP/1.1\r\nhost: x\r\n\r\n")
    reply = await wire.reply()
    assert (reply.status, reply.json()) == (200, {"messages": [], "next": 0})


async def test_answers_a_client_that_has_no_more_to_say(wire: Wire) -> None:
    """A client may close its half of the connection after the request."""
    await wire.send(request("POST", MESSAGES, body=b"a"))
    wire.writer.write_eof()
    assert (await wire.reply()).status == 201


async def test_forgets_a_client_that_left_in_the_middle(door: RestDoor, service: LocalService) -> None:
    """Half a body has no effect."""
    async with connected(door) as wire:
        await wire.send(request("POST", MESSAGES, "Content-Length: 100") + b"half")
        await until(lambda: door.intake.bodies.used > 0)
    await until(lambda: door.intake.requests == 0)
    assert door.intake.bodies.used == 0
    assert (await service.list_topics()).topics == ()


@pytest.mark.parametrize("size", [HEADER_BYTES, 90_000, 200_000])
async def test_refuses_long_headers(wire: Wire, size: int) -> None:
    """More than 32 KiB of headers are `too_large`, as 431."""
    await wire.send(request("GET", "/livez", f"X-Long: {'x' * size}"))
    reply = await wire.reply()
    assert (reply.status, reply.json()["code"], reply.json()["field"]) == (431, "too_large", "headers")


async def test_takes_headers_below_the_limit(wire: Wire) -> None:
    """32 KiB in all are taken, the request line included."""
    await wire.send(request("GET", "/livez", f"X-Long: {'x' * (HEADER_BYTES - 100)}"))
    assert (await wire.reply()).status == 200


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    ],
)
async def test_refuses_what_is_not_http(wire: Wire, nonsense: bytes) -> None:
    """Broken HTTP is answered with a problem document, and the connection is closed."""
    await wire.send(nonsense)
    reply = await wire.reply()
    assert (reply.status, reply.json()["code"]) == (400, "invalid_argument")
    assert reply.headers["connection"] == "close"
    assert await wire.closed() == b""


@pytest.mark.parametrize("upgrade", ["websocket", "h2c\r\nHTTP2-Settings: A"])
async def test_ignores_upgrades(wire: Wire, upgrade: str) -> None:
    """What asks for a protocol that is not spoken here is answered in the one that is (RFC 9110, section 7.8)."""
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    await wire.send(request("GET", "/api/data", f"Upgrade: {upgrade}", "Connection: Upgrade", key))
    for path in ("/api/data", "/livez"):
        assert (await wire.reply()).status == 200
        wire.again()
        await wire.send(request("GET", path))


class TestSlowSenders:
    """Against a short deadline for bodies."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, rest_body_seconds=0.2)

    async def test_are_cut(self, wire: Wire, service: LocalService) -> None:
        """A body that does not come in time is `deadline_exceeded`, as 408, and nothing is stored."""
        await wire.send(request("POST", MESSAGES, "Content-Length: 100") + b"slow")
        reply = await wire.reply()
        assert (reply.status, reply.json()["code"], reply.json()["field"]) == (408, "deadline_exceeded", "body")
        assert await wire.closed() == b""
        assert (await service.list_topics()).topics == ()

    async def test_are_cut_after_an_early_answer(self, wire: Wire) -> None:
        """Who goes on sending after the answer is cut as well."""
        await wire.send(request("POST", MESSAGES, "Content-Length: 1000000000") + b"slow")
        assert (await wire.reply()).status == 413
        assert await wire.closed() == b""

    async def test_get_one_deadline(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who was told that the time is over gets none again to send the rest."""
        due = set()
        timeout_at = asyncio.timeout_at

        def recorded(when: float | None) -> asyncio.Timeout:
            due.add(when)
            return timeout_at(when)

        monkeypatch.setattr(asyncio, "timeout_at", recorded)
        await wire.send(request("POST", MESSAGES, "Content-Length: 100") + b"slow")
        assert (await wire.reply()).status == 408
        assert await wire.closed() == b""
        assert len(due) == 1


class TestManyBodies:
    """Against a small bound of bodies in memory."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, rest_inflight_bytes=LIMIT)

    async def test_are_refused_past_the_bound(self, door: RestDoor, wire: Wire) -> None:
        """Bodies in memory are bounded over all connections; past that it is `overloaded`."""
        async with connected(door) as other:
            await other.send(request("POST", MESSAGES, f"Content-Length: {LIMIT}") + b"x" * (LIMIT - 1))
            await until(lambda: door.intake.bodies.used == LIMIT - 1)
            await wire.send(request("POST", MESSAGES, body=b"xx"))
            reply = await wire.reply()
            assert (reply.status, reply.json()["code"]) == (429, "overloaded")
            assert reply.headers["retry-after"] == "1"
            await other.send(b"x")
            assert (await other.reply()).status == 201
        wire.again()
        await wire.send(request("POST", MESSAGES, body=b"xx"))
        assert (await wire.reply()).status == 201


async def test_holds_a_body_once() -> None:
    """One that came in parts is there in whole alone: no more is counted."""
    parts = iter((b"ab", b"cd", b""))

    async def receive() -> Message:
        part = next(parts)
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    budget = Budget(10, "things")
    body = intake._Body(receive, 10, budget)
    await body.arrives()
    assert (body.data, budget.used) == (b"abcd", 4)
    assert body.data is body.data


async def test_bounds_large_answers() -> None:
    """Large answers that clients are slow to take are bounded together; past that it is `overloaded`."""
    sender = Sender(100_000)
    scope = {"raw_path": b"/", REQUEST_ID: "1"}
    taken = asyncio.Event()
    statuses: list[int] = []

    async def slow(event: dict[str, object]) -> None:
        if event["type"] == "http.response.body":
            await taken.wait()

    async def quick(event: dict[str, object]) -> None:
        if event["type"] == "http.response.start":
            statuses.append(int(str(event["status"])))

    large = Answer(body=b"x" * 70_000)
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.send(large, scope, slow))  # type: ignore[arg-type]  # a dict is such a mapping
        await asyncio.sleep(0)
        await sender.send(large, scope, quick)  # type: ignore[arg-type]
        await sender.send(Answer(body=b"x"), scope, quick)  # type: ignore[arg-type]
        taken.set()
    await sender.send(large, scope, quick)  # type: ignore[arg-type]
    assert statuses == [429, 200, 200]


def test_counts_nothing_that_does_not_fit() -> None:
    """What was refused is not held against those who come later."""
    budget = Budget(10, "things")
    budget.take(10)
    with pytest.raises(Exception, match="10 bytes of things"):
        budget.take(1)
    budget.give(10)
    budget.take(10)


async def test_answers_a_defect_as_internal(
    door: RestDoor, wire: Wire, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is logged, and answered without telling what it was."""

    async def broken(topic: str | None = None) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(service, "get_data", broken)
    await wire.send(request("GET", "/api/data"))
    reply = await wire.reply()
    assert (reply.status, reply.json()["code"]) == (500, "internal")
    assert b"secret" not in reply.body


async def test_reads_on_for_a_bounded_number_of_strangers(guarded: RestDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are refused, and do not send the rest, hold no places; past their bound, connections end."""
    monkeypatch.setattr("transports.rest.intake._REFUSED", 1)
    async with connected(guarded) as one, connected(guarded) as two:
        for wire in (one, two):
            await wire.send(request("POST", MESSAGES, "Content-Length: 9"))
            assert (await wire.reply()).status == 401
        assert await two.closed() == b""
        assert (guarded.intake.requests, guarded.intake.refused) == (0, 1)
        await one.send(b"x" * 9)
        await until(lambda: guarded.intake.refused == 0)


class TestManyRequests:
    """Against a small bound of requests."""

    async def test_are_refused_past_the_bound(
        self, service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Requests at once are bounded; past that it is `overloaded`."""
        monkeypatch.setattr("transports.rest.intake._REQUESTS", 0)
        few = msgspec.structs.replace(settings, max_streams=1)
        async with (
            RestDoor(OpenGate(service, settings), health, few, "1") as door,
            connected(door) as one,
            connected(door) as two,
        ):
            await one.send(request("GET", f"{MESSAGES}?wait=60"))
            await until(lambda: service.streams == 1)
            await two.send(request("GET", "/livez"))
            assert (await two.reply()).status == 429
            service.drain()
            assert (await one.reply()).status == 200
