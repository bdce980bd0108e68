"""What a link makes of a core's answers, over each protocol, with the real door on the other side."""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from math import isfinite
from typing import Any, cast

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from core import deadlines
from core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    TriviumError,
    Unavailable,
    UnsupportedMediaType,
)
from core.gate import OpenGate
from core.health import Health
from core.messages import (
    Greeting,
    Message,
    Page,
    Published,
    StaleGreeting,
    StaleMessage,
    StalePage,
    StoredMessage,
    TopicPage,
    new_message,
)
from core.ports import MessageService
from core.remote.links import Link, Unreachable
from core.settings import MEMORY, Settings
from proto.trivium.v1 import messages_pb2 as pb
from tests.remote.conftest import PROTOCOLS, Core
from tests.remote.proxy import Proxy
from transports.grpc.door import GrpcDoor
from transports.grpc.remote import GrpcLink
from transports.rest.door import RestDoor
from transports.rest.remote import HttpLink

TIME = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
STORED = StoredMessage("t", 7, TIME, new_message(b"\xff", id="1", time=TIME, attributes={"region": "eu"}))


class Told:
    """A service that answers as it is told, and remembers the deadlines."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.remaining: list[float | None] = []

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        return cast(StoredMessage, self._answer())

    async def read_messages(self, topic: str, **_: Any) -> Page:
        return cast(Page, self._answer())

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return cast(StoredMessage, self._answer())

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        return cast("Future[tuple[Published, ...]]", self._answer())

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        yield cast(Page, self._answer())

    async def list_topics(self, **_: Any) -> TopicPage:
        return cast(TopicPage, self._answer())

    def _answer(self) -> Any:
        self.remaining.append(deadlines.remaining())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@asynccontextmanager
async def linked(protocol: str, service: MessageService) -> AsyncIterator[MessageService]:
    """What a link gives to reach a door of that service."""
    settings = Settings(data_dir=MEMORY, rest_port=0, grpc_port=0, admin_port=0)
    async with AsyncExitStack() as stack:
        link: Link
        if protocol == "grpc":
            door = await stack.enter_async_context(GrpcDoor(OpenGate(service, settings), Health(), settings))
            link = GrpcLink(f"grpc://{door.address}", settings)
        else:
            link = HttpLink(
                (
                    await stack.enter_async_context(RestDoor(OpenGate(service, settings), Health(), settings, "1"))
                ).address,
                settings,
            )
        await stack.enter_async_context(link)
        yield link.on_behalf_of(None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("is not good", field="wait"),
        InvalidArgument("is not good"),
        NotFound("is not there", field="offset"),
        MethodNotAllowed("is not done"),
        Conflict("was something else", field="messages[3].id"),
        TooLarge("5 bytes, at most 4", field="data"),
        UnsupportedMediaType("is not taken", field="content-type"),
        Overloaded("too much", retry_after=2.5),
        Unavailable("is away", retry_after=3.0),
        DeadlineExceeded("took too long"),
        Internal("is broken"),
    ],
    ids=repr,
)
async def test_an_error_is_the_same_on_this_side(protocol: str, error: TriviumError) -> None:
    """Its kind, detail, field and time to repeat, from reads and from publishing."""
    async with linked(protocol, Told(error)) as core:
        for asked in (core.get_data("t"), core.publish("t", [new_message(b"x")])):
            with pytest.raises(type(error)) as caught:
                await asked
            told = caught.value
            assert (told.detail, told.field, told.retry_after) == (error.detail, error.field, error.retry_after)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_data_comes_whole(protocol: str) -> None:
    """With every attribute, as the newest message, one message or a page; a greeting with its topic."""
    async with linked(protocol, Told(STORED)) as core:
        assert await core.get_data("t") == STORED
        assert await core.get_message("t", 7) == STORED
    async with linked(protocol, Told(Page((STORED,), 7))) as core:
        assert await core.read_messages("t") == Page((STORED,), 7)
    async with linked(protocol, Told(Greeting("t", "hello"))) as core:
        assert await core.get_data("t") == Greeting("t", "hello")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stale_answer_stays_stale(protocol: str) -> None:
    """An edge of an edge tells its own callers, with the age."""
    for answer in (StaleMessage("t", 7, TIME, STORED.message, 5.0), StaleGreeting("t", "hello", 6.0)):
        async with linked(protocol, Told(answer)) as core:
            assert await core.get_data("t") == answer
    async with linked(protocol, Told(StalePage((STORED,), 7, 7.0))) as core:
        assert await core.read_messages("t") == StalePage((STORED,), 7, 7.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_deadline_is_passed_on(protocol: str) -> None:
    """Whoever works for the call over there knows how long is left; over HTTP in whole seconds."""
    service = Told(STORED)
    async with linked(protocol, service) as core:
        await core.get_data("t")
        async with deadlines.until(asyncio.get_running_loop().time() + 60.5):
            await core.get_data("t")
    assert service.remaining[0] is None
    assert service.remaining[1] is not None
    assert 40 < service.remaining[1] <= 61


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "data", [b' {"a": 1.50}\r\n', b"\n[]", b"null", b'"x"', b"", b'{"data":{"data":1}}  '], ids=repr
)
async def test_json_is_kept_verbatim(protocol: str, core: Core, data: bytes) -> None:
    """Every byte of it, white space around and within too, however it is read."""
    settings = Settings()
    kind: Any = GrpcLink if protocol == "grpc" else HttpLink
    async with kind(core.address(protocol), settings) as link:
        remote: MessageService = link.on_behalf_of(None)
        message = new_message(data, content_type="application/json", attributes={"zone": "z"})
        await remote.publish("t", [message])
        read = [await remote.get_data("t"), await remote.get_message("t", 1)]
        read += (await remote.read_messages("t")).messages
        async with aclosing(remote.follow("t", 0)) as pages:
            await anext(pages)
            read += (await anext(pages)).messages
        for stored in read:
            assert isinstance(stored, StoredMessage)
            assert (stored.message.data, stored.message.attributes) == (data, {"zone": "z"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_nobody_there_is_unreachable(protocol: str) -> None:
    """A port that refuses, and one that hangs up, say so at once."""
    kind: Any = GrpcLink if protocol == "grpc" else HttpLink
    scheme = "grpc" if protocol == "grpc" else "http"
    async with Proxy("127.0.0.1:1") as proxy:
        async with kind(f"{scheme}://{proxy.address}", Settings()) as link:
            with pytest.raises(Unreachable):
                await link.on_behalf_of(None).get_data("t")
            with pytest.raises(Unreachable):
                await link.probe()
        await proxy.close()
        async with kind(f"{scheme}://{proxy.address}", Settings()) as link:
            with pytest.raises(Unreachable):
                await link.on_behalf_of(None).publish("t", [new_message(b"x")])


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"502 Bad Gateway\r\ncontent-length: 2\r\n\r\n{}", Unreachable),
        (b"200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]", Unreachable),
        (b"302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"503 No\r\ncontent-type: application/problem+json\r\ncontent-length: 3\r\n\r\n{x}", Unreachable),
        (b'503 No\r\ncontent-type: application/problem+json\r\n\r\n{"code": "caf\xe9", "detail": "x"}', Unreachable),
        (b'503 No\r\ncontent-type: application/problem+json\r\n\r\n{"x": ' + b"[" * 100_000, Unreachable),
        (b'200 OK\r\ncontent-type: application/json\r\n\r\n{"x": ' + b"[" * 100_000, Unreachable),
        (b"503 No\r\nretry-after: " + b"9" * 400 + b"\r\ncontent-length: 0\r\n\r\n", Unreachable),
        (b"nonsense\r\n\r\n", Unreachable),
    ],
    ids=range(9),
)
async def test_something_else_at_the_address_is_unreachable(head: bytes, error: type[Exception]) -> None:
    """An answer that no Trivium gave is no answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + head)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, HttpLink(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Settings()) as link:
        with pytest.raises(error) as caught:
            await link.on_behalf_of(None).get_data("t")
        assert isfinite(getattr(caught.value, "retry_after", None) or 0)
        with suppress(error):  # what has a status may be alive
            await link.probe()


@pytest.mark.parametrize(
    "answer",
    [b"\xff", pb.FollowResponse(messages=[pb.Message(time=Timestamp(seconds=10**15))]).SerializeToString()],
    ids=["no protobuf", "no time"],
)
async def test_something_else_that_speaks_grpc_is_unreachable(answer: bytes, stack: AsyncExitStack) -> None:
    """Whatever is read there; callers did nothing wrong."""

    async def once(*_: Any) -> bytes:
        return answer

    async def stream(*_: Any) -> AsyncGenerator[bytes]:
        yield answer

    handlers = dict.fromkeys(("GetData", "GetMessage", "ReadMessages"), grpc.unary_unary_rpc_method_handler(once))
    handlers["Follow"] = grpc.unary_stream_rpc_method_handler(stream)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("trivium.v1.Messages", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    core = (await stack.enter_async_context(GrpcLink(f"grpc://127.0.0.1:{port}", Settings()))).on_behalf_of(None)
    for asked in (core.get_data("t"), core.get_message("t", 1), core.read_messages("t"), anext(core.follow("t", 0))):
        with pytest.raises(Unreachable, match="none of a Trivium"):
            await asked


async def test_an_endless_answer_is_unreachable() -> None:
    """It takes no memory beyond what a core may answer."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        with suppress(OSError):
            while sent < 256 * 1024 * 1024:
                writer.write(b" " * 65536)
                await writer.drain()
                sent += 65536
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, HttpLink(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Settings()) as link:
        with pytest.raises(Unreachable, match="more than 16777216 bytes"):
            await link.on_behalf_of(None).get_data("t")
    assert sent < 64 * 1024 * 1024


async def test_grpc_to_a_port_of_http_is_unreachable(core: Core) -> None:
    """A mistaken address is an address that does not answer."""
    async with GrpcLink(f"grpc://{core.rest.address}", Settings()) as link:
        with pytest.raises(Unreachable):
            await link.on_behalf_of(None).get_data("t")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_proxy_of_the_environment_is_not_used(
    core: Core, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """What goes to a core is for nobody in between; `http_proxy` is for the world outside."""
    async with Proxy("127.0.0.1:1") as listening:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://{listening.address}")
        kind: Any = GrpcLink if protocol == "grpc" else HttpLink
        async with kind(core.address(protocol), Settings()) as link:
            assert isinstance(await link.on_behalf_of(None).get_data("t"), Greeting)
        assert listening.connections == 0
