"""Following over server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from core.gate import OpenGate
from core.health import Health
from core.messages import StoredMessage, new_message
from core.service import LocalService
from core.settings import Settings
from tests.rest.wire import connected, request, until
from transports.encodings import Encodings
from transports.rest import connections
from transports.rest.door import RestDoor
from transports.rest.http1 import Http1
from transports.rest.streams import blocks, frame_of

STREAM = "/api/topics/t/stream"


class Frame(msgspec.Struct):
    """One block of a stream, comments left out."""

    id: str | None
    event: str | None
    data: str | None

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.data or "null")


async def frames(answer: httpx2.Response) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line:
            if fields:
                yield Frame(fields.get("id"), fields.get("event"), fields.get("data"))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value


async def test_follows_from_now_on(http: httpx2.AsyncClient, service: LocalService) -> None:
    """The first frame carries the cursor and no data; then comes what is published, as CloudEvents."""
    await service.publish("t", [new_message(b"old")])
    async with http.stream("GET", STREAM) as answer:
        stream = frames(answer)
        assert await anext(stream) == Frame("1", None, None)
        await service.publish("t", [new_message(b"new", id="2", content_type="text/plain")])
        frame = await anext(stream)
        assert (frame.id, frame.event) == ("2", "message")
        assert (frame.json["data"], frame.json["offset"], frame.json["id"]) == ("new", "2", "2")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [("?after=0", {}, 1), ("?after=2", {}, 3), ("?after=0", {"last-event-id": "2"}, 3), ("", {}, 4)],
)
async def test_resumes(
    http: httpx2.AsyncClient, service: LocalService, query: str, headers: dict[str, str], first: int
) -> None:
    """`Last-Event-ID` beats `after`; without any it is from now on."""
    await service.publish("t", [new_message(b"x") for _ in range(3)])
    async with http.stream("GET", STREAM + query, headers=headers) as answer:
        stream = frames(answer)
        assert (await anext(stream)).id == str(first - 1)
        await service.publish("t", [new_message(b"x")])
        assert [(await anext(stream)).id for _ in range(first, 5)] == [str(offset) for offset in range(first, 5)]


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
async def test_frames_data_of_several_lines(http: httpx2.AsyncClient, service: LocalService, line_end: str) -> None:
    """JSON is kept verbatim, so it may hold line ends: each line is a data field of its own."""
    data = f'{{"a":{line_end}{line_end}1}}'.encode()
    await service.publish("t", [new_message(data, content_type="application/json")])
    async with http.stream("GET", f"{STREAM}?after=0") as answer:
        stream = frames(answer)
        await anext(stream)
        assert (await anext(stream)).json["data"] == {"a": 1}


async def test_tells_every_follower_everything_once_in_order(door: RestDoor, service: LocalService) -> None:
    """200 followers of a topic that is written see every offset once, in order."""
    count = 100
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=door.address, timeout=60, limits=limits) as http:

        async def follow() -> list[str | None]:
            async with http.stream("GET", f"{STREAM}?after=0") as answer:
                stream = frames(answer)
                await anext(stream)
                return [(await anext(stream)).id for _ in range(count)]

        async with asyncio.TaskGroup() as group:
            followers = [group.create_task(follow()) for _ in range(200)]
            for _ in range(count):
                await service.publish("t", [new_message(b"x" * 100)])
    expected = [str(offset) for offset in range(1, count + 1)]
    assert all(follower.result() == expected for follower in followers)


async def test_encodes_a_message_once_for_all(service: LocalService) -> None:
    """Frames are shared between followers, in a bounded cache."""
    await service.publish("t", [new_message(b"x" * 1000) for _ in range(100)])
    page = await service.read_messages("t")
    shared = Encodings(frame_of, 20_000)
    first, last = page.messages[0], page.messages[-1]
    frame = shared.of(first)
    assert shared.of(_copy(first)) is frame
    for stored in page.messages:
        shared.of(stored)
    assert shared.size <= 20_000
    assert shared.of(_copy(last)) is shared.of(last)
    assert shared.of(first) is not frame


async def test_writes_many_frames_at_once(service: LocalService) -> None:
    """The frames of a page are joined into few writes of bounded size."""
    await service.publish("t", [new_message(b"x" * 1000) for _ in range(100)])
    page = await service.read_messages("t")
    found = list(blocks(Encodings(frame_of, 0), page))
    assert 1 < len(found) < 5
    assert max(map(len, found)) <= 64 * 1024
    assert sum(block.count(b"event: message\n") for block in found) == 100


async def test_ends_with_the_service(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A stream ends cleanly when the service drains."""
    async with http.stream("GET", STREAM) as answer:
        stream = frames(answer)
        await anext(stream)
        service.drain()
        assert [frame async for frame in stream] == []
    assert service.streams == 0


async def test_notices_who_left(door: RestDoor, service: LocalService) -> None:
    """A follower that disconnects gives its place back at once, though nothing is published."""
    async with connected(door) as wire:
        await wire.send(request("GET", STREAM))
        assert b"id: 0" in await wire.reader.readuntil(b"id: 0\n\n")
        assert service.streams == 1
    await until(lambda: service.streams == 0)


async def test_refuses_more_followers_than_it_may_have(log: Any, health: Health, settings: Settings) -> None:
    """Past the bound the answer is a problem with `Retry-After`, before any stream starts."""
    service = LocalService.of(log, msgspec.structs.replace(settings, max_streams=1))
    async with (
        RestDoor(OpenGate(service, settings), health, settings, "1") as door,
        httpx2.AsyncClient(base_url=door.address, timeout=30) as http,
    ):
        async with http.stream("GET", STREAM) as first:
            assert first.status_code == 200
            refused = await http.get(STREAM)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "5"
        service.drain()


class TestComments:
    """On an idle stream."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, rest_comment_seconds=0.01)

    async def test_keep_the_connection_alive(self, door: RestDoor) -> None:
        """Comments come again and again while nothing is published."""
        async with connected(door) as wire:
            await wire.send(request("GET", STREAM))
            for _ in range(3):
                await wire.reader.readuntil(b"\r\n:\n\n\r\n")


async def test_cuts_a_follower_that_does_not_read(
    door: RestDoor, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes nothing for a while loses the connection and the place; others are not held up."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.2)
    async with connected(door) as wire:
        await wire.send(request("GET", f"{STREAM}?after=0"))
        await wire.reader.readuntil(b"id: 0\n\n")
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket can
        async with asyncio.timeout(30):
            while service.streams:
                await service.publish("t", [new_message(b"x" * 500_000)])


class TestLargeFrames:
    """With room for one of them at a time."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, rest_inflight_bytes=1024)

    async def test_take_turns(self, door: RestDoor, service: LocalService, http: httpx2.AsyncClient) -> None:
        """Who does not read holds others up until it is cut; they miss nothing."""
        async with connected(door) as wire:
            await wire.send(request("GET", f"{STREAM}?after=0"))
            await wire.reader.readuntil(b"id: 0\n\n")
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(40):
                await service.publish("t", [new_message(b"x" * 500_000)])
            (slow,) = door._server._connections
            await until(lambda: isinstance(slow, Http1) and slow.is_stuck)
            async with http.stream("GET", f"{STREAM}?after=0") as answer:
                stream = frames(answer)
                assert (await anext(stream)).id == "0"
                slow.abort()  # as `SEND_SECONDS` does
                assert [(await anext(stream)).id for _ in range(40)] == [str(offset) for offset in range(1, 41)]
            await until(lambda: service.streams == 0)


def _copy(stored: StoredMessage) -> StoredMessage:
    return msgspec.structs.replace(stored)
