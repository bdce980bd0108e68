"""The RPCs of one request and one answer, as a client sees them."""

from typing import Any

import grpc
import pytest

from core.limits import MAX_OFFSET
from core.service import LocalService
from core.stores.sqlite import SqliteLog
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.grpc_door.clients import Failure, failure, request, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TOO_LARGE = grpc.StatusCode.RESOURCE_EXHAUSTED
FACES = "\N{GRINNING FACE}" * 99


async def test_an_empty_topic_answers_with_the_greeting(stub: MessagesStub) -> None:
    """GetData without a topic asks for the default topic, which is empty at first."""
    answer = await stub.GetData(pb.GetDataRequest())
    assert answer.WhichOneof("result") == "greeting"
    assert answer.greeting == "Hello from Trivium"


async def test_get_data_answers_with_the_newest_message(stub: MessagesStub) -> None:
    """GetData gives the message at the head, of the default topic or of another."""
    await stub.Publish(request("data", b"one", b"two"))
    await stub.Publish(request("other", b"three"))
    assert (await stub.GetData(pb.GetDataRequest())).message.data == b"two"
    assert (await stub.GetData(pb.GetDataRequest(topic="other"))).message.data == b"three"


async def test_a_message_keeps_every_attribute(stub: MessagesStub) -> None:
    """What was published is read with each attribute as it was, at its topic and offset."""
    message = pb.Message(
        id="i",
        source="/s",
        type="t",
        subject="é",
        content_type="text/plain; charset=utf-8",
        data="ü".encode(),
        key="k",
        attributes={"dataschema": "urn:x", "ext1": "true"},
    )
    message.time.FromJsonString("2026-01-02T03:04:05.678901Z")
    published = await stub.Publish(pb.PublishRequest(topic="a", messages=[message]))
    assert published == pb.PublishResponse(messages=[pb.Published(topic="a", offset=1, id="i")])
    message.topic, message.offset = "a", 1
    assert (await stub.GetMessage(pb.GetMessageRequest(topic="a", offset=1))).message == message


async def test_pages_continue_at_their_cursor(stub: MessagesStub) -> None:
    """ReadMessages starts at the first message, and `next` leads on until an empty page."""
    await stub.Publish(request("t", *(str(index).encode() for index in range(5))))
    first = await stub.ReadMessages(pb.ReadMessagesRequest(topic="t", limit=3))
    second = await stub.ReadMessages(pb.ReadMessagesRequest(topic="t", after=first.next))
    third = await stub.ReadMessages(pb.ReadMessagesRequest(topic="t", after=second.next))
    assert [(one.offset, one.data) for page in (first, second) for one in page.messages] == [
        (offset, str(offset - 1).encode()) for offset in range(1, 6)
    ]
    assert (first.next, second.next, third) == (3, 5, pb.ReadMessagesResponse(next=5))


async def test_an_empty_page_waits_for_a_message(stub: MessagesStub, service: LocalService) -> None:
    """A read with `wait_seconds` answers as soon as something is published."""
    waiting = stub.ReadMessages(pb.ReadMessagesRequest(topic="t", after=0, wait_seconds=60))
    await until(lambda: service.streams)
    await stub.Publish(request("t", b"x"))
    assert [one.data for one in (await waiting).messages] == [b"x"]


async def test_an_answer_holds_three_mebibytes_or_one_message(stub: MessagesStub) -> None:
    """A page of large messages stays below what gRPC clients take by default."""
    for _ in range(5):
        await stub.Publish(request("t", b"x" * 1024 * 1000))
    page = await stub.ReadMessages(pb.ReadMessagesRequest(topic="t"))
    assert len(page.messages) == 3
    assert page.ByteSize() < 3 * 1024 * 1024


async def test_topics_are_listed_by_name(stub: MessagesStub) -> None:
    """ListTopics gives names and heads in pages, whose last has no `next`."""
    for topic in ("b", "c", "a"):
        await stub.Publish(request(topic, b"x"))
    await stub.Publish(request("a", b"y"))
    first = await stub.ListTopics(pb.ListTopicsRequest(limit=2))
    assert first == pb.ListTopicsResponse(topics=[pb.Topic(topic="a", head=2), pb.Topic(topic="b", head=1)], next="b")
    second = await stub.ListTopics(pb.ListTopicsRequest(after=first.next))
    assert second == pb.ListTopicsResponse(topics=[pb.Topic(topic="c", head=1)])


async def test_a_repeated_identity_answers_with_the_first_offset(stub: MessagesStub) -> None:
    """The same id and source with the same content is a duplicate, within a batch too."""
    once = pb.PublishRequest(topic="t", messages=[pb.Message(id="1", data=b"x")])
    await stub.Publish(once)
    assert await stub.Publish(once) == pb.PublishResponse(
        messages=[pb.Published(topic="t", offset=1, id="1", duplicate=True)]
    )
    batch = await stub.Publish(pb.PublishRequest(topic="t", messages=[pb.Message(id="2"), pb.Message(id="2")]))
    assert [(one.offset, one.duplicate) for one in batch.messages] == [(2, False), (2, True)]


async def test_an_identity_with_other_content_is_a_conflict(stub: MessagesStub, log: SqliteLog) -> None:
    """A conflict fails the whole batch and names its index."""
    await stub.Publish(pb.PublishRequest(topic="t", messages=[pb.Message(id="1", data=b"x")]))
    batch = [pb.Message(id="2"), pb.Message(id="1", data=b"y")]
    failed = await failure(stub.Publish(pb.PublishRequest(topic="t", messages=batch)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "conflict")
    assert failed.field == "messages[1].id"
    assert await log.head("t") == 1


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        (pb.Message(id="i" * 256), INVALID, "id"),
        (pb.Message(source="a\0b"), INVALID, "source"),
        (pb.Message(subject=""), INVALID, "subject"),
        (pb.Message(content_type="nonsense"), INVALID, "content_type"),
        (pb.Message(content_type="application/json", data=b"{"), INVALID, "data"),
        (pb.Message(content_type="text/plain", data=b"\xff"), INVALID, "data"),
        (pb.Message(attributes={"Upper": "x"}), INVALID, "attributes['Upper']"),
        (
            pb.Message(attributes={FACES: "x"}),
            INVALID,
            f"attributes['{FACES[:40]}']",
        ),
        (pb.Message(attributes={f"a{index}": "x" for index in range(33)}), INVALID, "attributes"),
        (pb.Message(attributes={"a": "x" * 9000}), TOO_LARGE, "attributes"),
        (pb.Message(data=b"x" * (1024 * 1024 + 1)), TOO_LARGE, "data"),
    ],
)
async def test_a_bad_message_is_refused_whole(
    message: pb.Message, code: grpc.StatusCode, field: str, stub: MessagesStub, log: SqliteLog
) -> None:
    """The field is named, with its index in a batch, of which nothing is stored."""
    reason = "invalid_argument" if code is INVALID else "too_large"
    alone = await failure(stub.Publish(pb.PublishRequest(topic="t", messages=[message])))
    assert (alone.code, alone.reason, alone.field) == (code, reason, field)
    assert alone.text.startswith(f"{field}: ")
    batch = await failure(stub.Publish(pb.PublishRequest(topic="t", messages=[pb.Message(), message, pb.Message()])))
    assert (batch.code, batch.reason, batch.field) == (code, reason, f"messages[1].{field}")
    assert await log.head("t") == 0


@pytest.mark.parametrize("topic", ["", "a b", ".a", "é", "t" * 201, "a/b"])
@pytest.mark.parametrize("rpc", ["Publish", "GetMessage", "ReadMessages"])
async def test_bad_topics_are_refused(rpc: str, topic: str, stub: MessagesStub) -> None:
    """Every RPC that takes a topic says what a topic is."""
    requests: dict[str, Any] = {
        "Publish": request(topic, b"x"),
        "GetMessage": pb.GetMessageRequest(topic=topic, offset=1),
        "ReadMessages": pb.ReadMessagesRequest(topic=topic),
    }
    failed = await failure(getattr(stub, rpc)(requests[rpc]))
    assert (failed.code, failed.reason, failed.field) == (INVALID, "invalid_argument", "topic")


@pytest.mark.parametrize(
    ("rpc", "bad", "field"),
    [
        ("GetData", pb.GetDataRequest(topic="?"), "topic"),
        ("Publish", pb.PublishRequest(topic="t"), "messages"),
        ("GetMessage", pb.GetMessageRequest(topic="t"), "offset"),
        ("GetMessage", pb.GetMessageRequest(topic="t", offset=-1), "offset"),
        ("GetMessage", pb.GetMessageRequest(topic="t", offset=MAX_OFFSET + 1), "offset"),
        ("GetMessage", pb.GetMessageRequest(topic="t", offset=2**63 - 1), "offset"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", after=-1), "after"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", after=1), "after"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", after=2**63 - 1), "after"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", limit=0), "limit"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", limit=1001), "limit"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", limit=-(2**31)), "limit"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", wait_seconds=-1), "wait_seconds"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", wait_seconds=60.1), "wait_seconds"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", wait_seconds=float("nan")), "wait_seconds"),
        ("ReadMessages", pb.ReadMessagesRequest(topic="t", wait_seconds=float("inf")), "wait_seconds"),
        ("ListTopics", pb.ListTopicsRequest(after="?"), "after"),
        ("ListTopics", pb.ListTopicsRequest(limit=0), "limit"),
    ],
)
async def test_bad_requests_name_their_field(rpc: str, bad: Any, field: str, stub: MessagesStub) -> None:
    """Offsets, cursors and limits out of range are invalid arguments."""
    failed = await failure(getattr(stub, rpc)(bad))
    assert (failed.code, failed.reason, failed.field) == (INVALID, "invalid_argument", field)


async def test_a_message_that_is_not_there_is_not_found(stub: MessagesStub) -> None:
    """An offset above the head has no message."""
    await stub.Publish(request("t", b"x"))
    failed = await failure(stub.GetMessage(pb.GetMessageRequest(topic="t", offset=2)))
    expected = "offset: topic 't' has no message at offset 2"
    assert failed == Failure(grpc.StatusCode.NOT_FOUND, expected, "not_found", "offset", None)


async def test_a_batch_has_limits(stub: MessagesStub, log: SqliteLog) -> None:
    """A batch of a thousand messages is stored, one of a thousand and one is not, nor one of more than 4 MiB."""
    assert len((await stub.Publish(request("t", *[b""] * 1000))).messages) == 1000
    for batch in ([b""] * 1001, [b"x" * 1024 * 1000] * 5):
        failed = await failure(stub.Publish(request("t", *batch)))
        assert (failed.code, failed.reason, failed.field) == (TOO_LARGE, "too_large", "messages")
    assert await log.head("t") == 1000


@pytest.mark.parametrize("rpc", ["GetData", "Publish", "GetMessage", "ReadMessages", "ListTopics"])
async def test_protobuf_garbage_is_an_invalid_argument(rpc: str, channel: Any) -> None:
    """Bytes that are no protobuf, or text that is not UTF-8, get an answer with details."""
    for garbage in (b"\xff\xff", b"\x0a\x02\xc3\x28"):
        failed = await failure(channel.unary_unary(f"/trivium.v1.Messages/{rpc}")(garbage))
        assert (failed.code, failed.reason, failed.field) == (INVALID, "invalid_argument", "request")


async def test_unknown_rpcs_are_unimplemented(channel: Any) -> None:
    """An unknown method and an unknown service are told so, with the code of the contract."""
    for path in ("/trivium.v1.Messages/Nothing", "/nowhere/Nothing"):
        failed = await failure(channel.unary_unary(path)(b""))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNIMPLEMENTED, "method_not_allowed")


async def test_a_deadline_ends_the_call_on_both_sides(stub: MessagesStub, service: LocalService) -> None:
    """A waiting read whose caller gave up holds nothing on the server."""
    waiting = stub.ReadMessages(pb.ReadMessagesRequest(topic="t", wait_seconds=60), timeout=0.3)
    assert (await failure(waiting)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not service.streams)
