"""The RPC queue on a real RabbitMQ, called by aio-pika."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from core.errors import Overloaded
from core.gate import OpenGate
from core.messages import new_message
from core.ports import MessageService
from core.service import LocalService
from core.settings import Settings
from tests.amqp.conftest import PATIENCE_SECONDS, acknowledged, take, until
from tests.amqp.services import Scripted
from transports.amqp.connection import Broker
from transports.amqp.rpc import Rpc
from transports.amqp.topology import Topology


class Caller:
    """Sends requests with direct reply-to, and matches the answers."""

    def __init__(self, channel: AbstractChannel, queue: str) -> None:
        self.channel = channel
        self.queue = queue
        self.answers: dict[str | None, asyncio.Future[AbstractIncomingMessage]] = {}
        self.sent = 0

    async def receive(self, answer: AbstractIncomingMessage) -> None:
        self.answers.pop(answer.correlation_id).set_result(answer)

    async def send(self, operation: str | None, body: bytes) -> asyncio.Future[AbstractIncomingMessage]:
        self.sent += 1
        name = f"call {self.sent}"
        answer = self.answers[name] = asyncio.get_running_loop().create_future()
        request = Message(body, type=operation, correlation_id=name, reply_to="amq.rabbitmq.reply-to")
        await self.channel.default_exchange.publish(request, self.queue)
        return answer

    async def ask(self, operation: str | None, **body: Any) -> AbstractIncomingMessage:
        return await self.ask_raw(operation, json.dumps(body).encode())

    async def ask_raw(self, operation: str | None, body: bytes) -> AbstractIncomingMessage:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await (await self.send(operation, body))

    async def document(self, operation: str, **body: Any) -> Any:
        answer = await self.ask(operation, **body)
        assert answer.type == operation
        return json.loads(answer.body)

    async def problem(self, operation: str | None, **body: Any) -> Any:
        answer = await self.ask(operation, **body)
        return problem(answer)


def problem(answer: AbstractIncomingMessage) -> Any:
    """The document of an error."""
    assert (answer.type, answer.content_type) == ("error", "application/problem+json")
    return json.loads(answer.body)


async def calling(channel: AbstractChannel, names: Topology) -> Caller:
    caller = Caller(channel, names.rpc)
    queue = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await queue.consume(caller.receive, no_ack=True)
    return caller


@pytest.fixture
async def caller(rpc: Rpc, client: AbstractChannel, names: Topology) -> Caller:
    return await calling(client, names)


async def test_get_data_greets_and_then_tells_the_newest(caller: Caller, service: LocalService) -> None:
    """As `GET /api/data`; an empty body asks for the default topic."""
    answer = await caller.ask_raw("GetData", b"")
    assert answer.content_type == "application/json"
    assert json.loads(answer.body) == {"message": "Hello from Trivium", "topic": "data", "offset": 0}
    await service.publish("data", [new_message(b"hi", id="1")])
    assert (await caller.document("GetData", topic="data"))["message"] == "hi"


async def test_publish_answers_with_offsets(caller: Caller, service: LocalService) -> None:
    """One or many CloudEvents, all or nothing; what is missing is filled in."""
    events = [
        {"id": "1", "data": {"a": [1]}},
        {"data_base64": "AAE=", "datacontenttype": "a/b", "source": "/s"},
        {"id": "1", "data": {"a": [1]}},
    ]
    answer = await caller.document("Publish", topic="t", messages=events)
    assert [(one["topic"], one["offset"], one["duplicate"]) for one in answer["messages"]] == [
        ("t", 1, False),
        ("t", 2, False),
        ("t", 1, True),
    ]
    first, second = (await service.read_messages("t")).messages
    assert (first.message.id, first.message.data, first.message.source) == ("1", b'{"a": [1]}', "urn:trivium")
    assert (second.message.content_type, second.message.data) == ("a/b", b"\0\1")


async def test_get_message_and_read_messages(caller: Caller, service: LocalService) -> None:
    """CloudEvents in JSON format, pages with `next`."""
    await service.publish("t", [new_message(b"%d" % number, id=str(number)) for number in range(3)])
    answer = await caller.ask("GetMessage", topic="t", offset=2)
    assert answer.content_type == "application/cloudevents+json"
    assert (json.loads(answer.body)["id"], json.loads(answer.body)["offset"]) == ("1", "2")
    page = await caller.document("ReadMessages", topic="t", after=1, limit=1)
    assert ([event["id"] for event in page["messages"]], page["next"]) == (["1"], 2)
    assert len((await caller.document("ReadMessages", topic="t"))["messages"]) == 3


async def test_reading_waits_for_a_message(caller: Caller, service: LocalService) -> None:
    """Other calls are answered meanwhile."""
    waiting = await caller.send("ReadMessages", b'{"topic": "t", "wait": 30}')
    await until(lambda: service.streams == 1)
    await caller.document("Publish", topic="t", messages=[{"id": "1"}])
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [event["id"] for event in json.loads((await waiting).body)["messages"]] == ["1"]


async def test_list_topics(caller: Caller, service: LocalService) -> None:
    """Paged by name."""
    for topic in ("a", "b", "c"):
        await service.publish(topic, [new_message(b"")])
    page = await caller.document("ListTopics", after="a", limit=1)
    assert page == {"topics": [{"topic": "b", "head": 1}], "next": "b"}


@pytest.mark.parametrize(
    ("operation", "body", "code", "field"),
    [
        ("Nonsense", {}, "not_found", "type"),
        (None, {}, "invalid_argument", "type"),
        ("GetData", {"topic": "no topic"}, "invalid_argument", "topic"),
        ("GetData", {"topic": 5}, "invalid_argument", "topic"),
        ("GetData", {"tpoic": "t"}, "invalid_argument", "body"),
        ("GetMessage", {"topic": "t", "offset": 1}, "not_found", "offset"),
        ("GetMessage", {"topic": "t", "offset": -1}, "invalid_argument", "offset"),
        ("GetMessage", {"topic": "t", "offset": 2**70}, "invalid_argument", "offset"),
        ("GetMessage", {"topic": "t"}, "invalid_argument", "offset"),
        ("GetMessage", {"offset": 1}, "invalid_argument", "topic"),
        ("ReadMessages", {"topic": "t", "after": 5}, "invalid_argument", "after"),
        ("ReadMessages", {"topic": "t", "after": "5"}, "invalid_argument", "after"),
        ("ReadMessages", {"topic": "t", "wait": 61}, "invalid_argument", "wait"),
        ("ReadMessages", {"topic": "t", "limit": 0}, "invalid_argument", "limit"),
        ("ListTopics", {"after": 5}, "invalid_argument", "after"),
        ("Publish", {"topic": "t"}, "invalid_argument", "messages"),
        ("Publish", {"messages": [{}]}, "invalid_argument", "topic"),
        ("Publish", {"topic": "t", "messages": []}, "invalid_argument", "messages"),
        ("Publish", {"topic": "t", "messages": {}}, "invalid_argument", "messages"),
        ("Publish", {"topic": "t", "messages": [{}, {"time": "x"}]}, "invalid_argument", "messages[1].time"),
        ("Publish", {"topic": "t", "messages": [{}, 5]}, "invalid_argument", "messages[1].body"),
        ("Publish", {"topic": "t", "messages": [{"id": "1"}, {"id": "1", "type": "x"}]}, "conflict", "messages[1].id"),
        ("Publish", {"topic": "t", "messages": [{}] * 1001}, "too_large", "messages"),
        ("Publish", {"topic": "t", "messages": [5] * 1001}, "too_large", "messages"),  # counted before read
    ],
)
async def test_errors_are_problem_documents(
    caller: Caller, service: LocalService, operation: str | None, body: dict[str, Any], code: str, field: str
) -> None:
    """Each names its code and the field, and has no effect."""
    document = await caller.problem(operation, **body)
    assert (document["code"], document.get("field")) == (code, field)
    assert not (await service.list_topics()).topics


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000, b'{"topic": "a\xff"}'])
async def test_bodies_that_are_no_request(caller: Caller, body: bytes) -> None:
    """JSON that is none, or no object."""
    document = problem(await caller.ask_raw("GetData", body))
    assert (document["code"], document["field"]) == ("invalid_argument", "body")


async def test_a_body_beyond_the_limit(caller: Caller) -> None:
    """It is refused before it is parsed."""
    document = problem(await caller.ask_raw("GetData", b" " * (8 * 1024 * 1024 + 1)))
    assert (document["code"], document["field"]) == ("too_large", "body")


async def test_a_request_without_reply_to_is_a_dead_letter(
    caller: Caller, client: AbstractChannel, names: Topology, service: LocalService
) -> None:
    """It has no effect, and carries the reason."""
    body = b'{"topic": "t", "messages": [{}]}'
    await client.default_exchange.publish(Message(body, type="Publish", correlation_id="c"), names.rpc)
    [dead] = await take(client, names.dead)
    assert (dead.body, dead.type, dead.correlation_id) == (body, "Publish", "c")
    assert dead.headers["x-trivium-error-code"] == "invalid_argument"
    assert str(dead.headers["x-trivium-error-detail"]).startswith("reply_to: ")
    assert not (await service.list_topics()).topics


async def test_an_answer_goes_to_an_ordinary_queue(caller: Caller, client: AbstractChannel, names: Topology) -> None:
    """`reply_to` may name any queue; the correlation id comes back as it was."""
    replies = await client.declare_queue(exclusive=True)
    request = Message(b"", type="GetData", reply_to=replies.name, correlation_id="é-1")
    await client.default_exchange.publish(request, names.rpc)
    [answer] = await take(client, replies.name)
    assert (answer.type, answer.correlation_id) == ("GetData", "é-1")


@pytest.mark.parametrize(
    "reply_to", ["nowhere", "x" * 255, "amq.rabbitmq.reply-to.garbage", "amq.rabbitmq.reply-to.g1h3AA.AAAA"]
)
async def test_a_bogus_reply_to_harms_nobody(
    caller: Caller, client: AbstractChannel, names: Topology, reply_to: str
) -> None:
    """Not even where RabbitMQ ends the connection for it: other calls are answered, those in flight included."""
    answers = [await caller.send("GetData", b"") for _ in range(10)]
    for _ in range(3):
        await client.default_exchange.publish(Message(b"", type="GetData", reply_to=reply_to), names.rpc)
        answers += [await caller.send("GetData", b"") for _ in range(10)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        for answer in answers:
            assert (await answer).type == "GetData"


async def test_calls_are_acknowledged(
    broker: Broker, service: MessageService, settings: Settings, client: AbstractChannel, names: Topology
) -> None:
    """Nothing comes again."""
    async with Rpc(broker, OpenGate(service, settings), settings):
        caller = await calling(client, names)
        for _ in range(20):
            await caller.document("GetData")
    await acknowledged(client, names.rpc)


async def test_calls_at_once_are_bounded(
    broker: Broker, service: LocalService, settings: Settings, client: AbstractChannel, names: Topology
) -> None:
    """A call past the bound waits in RabbitMQ until another is answered."""
    settings = msgspec.structs.replace(settings, amqp_rpc_prefetch=3)
    async with Rpc(broker, OpenGate(service, settings), settings):
        caller = await calling(client, names)
        reads = [await caller.send("ReadMessages", b'{"topic": "t", "wait": 60}') for _ in range(3)]
        await until(lambda: service.streams == 3)
        late = await caller.send("GetData", b"")
        await service.publish("t", [new_message(b"")])
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [(await answer).type for answer in [*reads, late]] == ["ReadMessages"] * 3 + ["GetData"]


async def test_calls_at_once_are_bounded_in_bytes(
    caller: Caller, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that finds no room is turned away; a large one alone has room, and what is answered makes room."""
    monkeypatch.setattr("transports.amqp.rpc._MOST_BYTES", 1000)
    waiting = await caller.send("ReadMessages", b'{"topic": "t", "wait": 60}'.ljust(2000))
    await until(lambda: service.streams == 1)
    assert problem(await caller.ask_raw("GetData", b"{}"))["code"] == "overloaded"
    await service.publish("t", [new_message(b"")])
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await waiting).type == "ReadMessages"
    assert (await caller.ask_raw("GetData", b"{}".ljust(2000))).type == "GetData"


async def test_draining_answers_the_calls_under_way(
    broker: Broker, service: LocalService, settings: Settings, client: AbstractChannel, names: Topology
) -> None:
    """Waiting reads return when the service drains, and their answers are sent."""
    async with Rpc(broker, OpenGate(service, settings), settings):
        caller = await calling(client, names)
        waiting = await caller.send("ReadMessages", b'{"topic": "t", "wait": 60}')
        await until(lambda: service.streams == 1)
        service.drain()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert json.loads((await waiting).body) == {"messages": [], "next": 0}
    await acknowledged(client, names.rpc)


@pytest.mark.parametrize(("failure", "code"), [(Overloaded("full"), "overloaded"), (None, "internal")])
async def test_errors_of_the_service_are_answered(
    broker: Broker,
    log: Any,
    settings: Settings,
    client: AbstractChannel,
    names: Topology,
    stack: AsyncExitStack,
    failure: Overloaded | None,
    code: str,
) -> None:
    """Also those that are a defect; the caller decides whether to try again."""
    service = Scripted.of(log, settings)
    service.start()

    def fail(message: Any) -> Overloaded:
        if failure is None:
            raise ZeroDivisionError
        return failure

    service.raises = fail
    await stack.enter_async_context(Rpc(broker, OpenGate(service, settings), settings))
    caller = await calling(client, names)
    assert (await caller.problem("Publish", topic="t", messages=[{}]))["code"] == code
