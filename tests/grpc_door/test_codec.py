"""Messages and answers, from protobuf and back."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidArgument, TooLarge
from core.limits import Limits
from core.messages import Message, Page, Published, StoredMessage, weight
from proto.trivium.v1 import messages_pb2 as pb
from transports.encodings import Encodings, RunEncodings
from transports.grpc.codec import (
    EncodedMessages,
    decode_message,
    decode_publish,
    encode_published,
    encode_request,
    encode_time,
    parse,
)
from transports.grpc.encoding import encode_run

LIMITS = Limits(batch_messages=10)

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=60)
WIDE = st.sampled_from(["x" * 255, "é" * 127, "\N{GRINNING FACE}" * 63])
STRINGS = TEXT | WIDE
TIMES = st.datetimes(timezones=st.just(UTC))
MESSAGES = st.builds(
    Message,
    id=STRINGS,
    source=STRINGS,
    type=STRINGS,
    data=st.binary(max_size=300),
    content_type=st.sampled_from(["application/octet-stream", "application/x-" + "y" * 200]),
    subject=st.none() | STRINGS,
    time=TIMES,
    key=st.none() | STRINGS,
    attributes=st.dictionaries(
        st.from_regex(r"[a-z]{1,20}", fullmatch=True), st.text(max_size=200) | WIDE, max_size=32
    ),
)
STORED = st.builds(
    lambda topic, offset, message: StoredMessage(topic, offset, message.time, message),
    st.from_regex(r"[a-z]{1,200}", fullmatch=True),
    st.integers(1, 2**53 - 1),
    MESSAGES,
)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def generated(stored: StoredMessage) -> pb.Message:
    """A stored message as the generated classes have it."""
    message = stored.message
    return pb.Message(
        topic=stored.topic,
        offset=stored.offset,
        id=message.id,
        source=message.source,
        type=message.type,
        subject=message.subject,
        time=encode_time(stored.time),
        content_type=message.content_type,
        data=message.data,
        key=message.key,
        attributes=message.attributes,
    )


@given(st.lists(MESSAGES, max_size=3))
def test_messages_survive_the_way_there_and_back(messages: list[Message]) -> None:
    """What a client encodes is decoded as the same messages."""
    raw = encode_request("topic", messages).SerializeToString()
    assert decode_publish(pb.PublishRequest, raw, LIMITS) == ("topic", messages)


@given(st.lists(st.builds(Published, STRINGS, st.integers(1, 2**53 - 1), STRINGS, st.booleans()), max_size=3))
def test_an_answer_tells_all_of_what_was_published(published: list[Published]) -> None:
    """Each message of a request is answered with its topic, offset and id, and whether it is a duplicate, in order."""
    answer = pb.PublishResponse.FromString(encode_published(published))
    assert [Published(one.topic, one.offset, one.id, one.duplicate) for one in answer.messages] == published


@given(STORED)
def test_stored_messages_read_as_what_the_generated_classes_write(stored: StoredMessage) -> None:
    """What is written by hand is the same message to whoever reads it with the generated classes."""
    raw = EncodedMessages(0).one(stored)
    assert pb.GetMessageResponse.FromString(raw) == pb.GetMessageResponse(message=generated(stored))


@given(STORED)
def test_weight_is_never_below_the_encoded_size(stored: StoredMessage) -> None:
    """Answers that the core bounds by weight never grow beyond that bound."""
    assert len(EncodedMessages(1000).one(stored)) <= weight(stored.message)


@given(
    st.builds(
        pb.Message,
        topic=st.text(max_size=5),
        offset=st.integers(-(2**63), 2**63 - 1),
        id=st.text(max_size=5),
        source=st.text(max_size=5),
        type=st.text(max_size=5),
        subject=st.none() | st.text(max_size=5),
        time=st.none() | st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-9, 10**9)),
        content_type=st.text(max_size=5),
        data=st.binary(max_size=9),
        key=st.none() | st.text(max_size=5),
        attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
def test_any_protobuf_message_is_decoded_or_refused(message: pb.Message) -> None:
    """Whatever a message holds, it becomes one of the core or is an invalid argument."""
    try:
        decoded = decode_message(message)
    except InvalidArgument:
        assert message.HasField("time")
        return
    assert decoded.data == message.data
    assert decoded.id == message.id or not message.id
    assert (decoded.subject is None) is not message.HasField("subject")


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    """Bytes that are no protobuf are an invalid argument and nothing else."""
    with suppress(InvalidArgument, TooLarge):
        decode_publish(pb.PublishStreamRequest, raw, LIMITS)


@given(st.lists(STORED, max_size=5, unique_by=lambda stored: (stored.topic, stored.offset)), st.integers(0, 2**53 - 1))
def test_pages_are_joined_from_messages_that_were_encoded_before(stored: list[StoredMessage], cursor: int) -> None:
    """A page from kept messages reads as one that was encoded in one piece, as either answer that holds a page."""
    encoded = EncodedMessages(2000)
    page = Page(tuple(stored), cursor)
    messages = [generated(one) for one in stored]
    for _ in range(2):
        raw = encoded.page(page)
        assert pb.FollowResponse.FromString(raw) == pb.FollowResponse(messages=messages, next=cursor)
        assert pb.ReadMessagesResponse.FromString(raw) == pb.ReadMessagesResponse(messages=messages, next=cursor)


@given(
    st.lists(MESSAGES, min_size=1, max_size=3).flatmap(lambda kinds: st.lists(st.sampled_from(kinds), max_size=40)),
    st.sampled_from([1, 100, 2**14 - 20, 2**21 - 20, 2**53 - 60]) | st.integers(1, 2**53 - 60),
)
def test_runs_read_as_what_the_generated_classes_write(messages: list[Message], first: int) -> None:
    """Whichever messages stand side by side, and wherever their offsets grow by a byte."""
    stored = [StoredMessage("topic", offset, one.time or NOW, one) for offset, one in enumerate(messages, first)]
    expected = pb.FollowResponse(messages=map(generated, stored), next=first)
    assert pb.FollowResponse.FromString(EncodedMessages(0).page(Page(tuple(stored), first))) == expected
    assert encode_run(stored) == b"".join(encode_run((one,)) for one in stored)


def stored_at(offset: int, data: bytes = b"") -> StoredMessage:
    message = Message(id=str(offset), source="s", type="t", data=data, content_type="a/b")
    return StoredMessage("topic", offset, NOW, message)


def test_single_answers_hold_the_message() -> None:
    """An encoded message is an answer of GetMessage and of GetData."""
    raw = EncodedMessages(0).one(stored_at(7))
    expected = generated(stored_at(7))
    assert pb.GetMessageResponse.FromString(raw).message == expected
    assert pb.GetDataResponse.FromString(raw) == pb.GetDataResponse(message=expected)


def test_a_kept_message_is_not_encoded_again() -> None:
    """Two readers of one message get the very same bytes."""
    encoded = Encodings(lambda stored: encode_run((stored,)), 10_000)
    assert encoded.of(stored_at(1)) is encoded.of(stored_at(1))


def test_pages_share_the_runs_within_them() -> None:
    """Who reads the same page has nothing encoded, and no message is encoded a third time, wherever pages are cut."""
    encoded: list[int] = []

    def encode(messages: Sequence[StoredMessage]) -> bytes:
        encoded.extend(one.offset for one in messages)
        return encode_run(messages)

    shared = RunEncodings(encode, 1_000_000)
    stored = [stored_at(offset) for offset in range(1, 301)]
    for first, step in [(0, 300), (0, 300), *((cut, 30 + cut) for cut in range(30))]:
        for at in range(first, 300, step):
            part = stored[at : at + step]
            assert b"".join(shared.all(part)) == encode_run(part)
        if step == 300:
            assert encoded == list(range(1, 301))
    assert max(map(encoded.count, range(1, 301))) == 2


def test_messages_with_gaps_are_no_run() -> None:
    """Whatever a page leaves out, nothing stands for a message that it lacks."""
    shared = RunEncodings(encode_run, 1_000_000)
    stored = [stored_at(offset) for offset in range(16, 48)]
    shared.all(stored)
    for missing in range(32):
        part = [*stored[:missing], *stored[missing + 1 :]]
        assert b"".join(shared.all(part)) == encode_run(part)


def test_kept_messages_are_bounded() -> None:
    """The older ones leave when the bound is passed, the newest stay, and what is too large is not kept."""
    encoded = Encodings(lambda stored: encode_run((stored,)), 10_000)
    first = encoded.of(stored_at(1, b"x" * 1000))
    for offset in range(2, 100):
        newest = encoded.of(stored_at(offset, b"x" * 1000))
        assert encoded.size <= 10_000
        assert encoded.of(stored_at(offset, b"x" * 1000)) is newest
    assert encoded.of(stored_at(1, b"x" * 1000)) is not first
    encoded.of(stored_at(100, b"x" * 20_000))
    assert encoded.size <= 10_000


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [
        (0, 1_999, datetime(1970, 1, 1, microsecond=1, tzinfo=UTC)),
        (-1, 999_999_999, datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)),
        (-62_135_596_800, 0, datetime.min.replace(tzinfo=UTC)),
        (253_402_300_799, 999_999_999, datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_times_are_cut_to_microseconds(seconds: int, nanos: int, expected: datetime) -> None:
    """The whole range of a Timestamp is taken, to the microsecond below."""
    assert decode_message(pb.Message(time=Timestamp(seconds=seconds, nanos=nanos))).time == expected


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-62_135_596_801, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000), (2**63 - 1, 0), (-(2**63), 0)],
)
@pytest.mark.parametrize(("count", "field"), [(1, "time"), (2, "messages[1].time")])
def test_times_out_of_range_are_refused(seconds: int, nanos: int, count: int, field: str) -> None:
    """A time that is none is named as the caller knows it, with its index in a batch."""
    bad = pb.Message(time=Timestamp(seconds=seconds, nanos=nanos))
    raw = pb.PublishRequest(topic="t", messages=[pb.Message(), bad][2 - count :]).SerializeToString()
    with pytest.raises(InvalidArgument) as raised:
        decode_publish(pb.PublishRequest, raw, LIMITS)
    assert raised.value.field == field


def test_what_is_missing_is_filled_in() -> None:
    """An empty message gets an id, a source, a type and a content type; topic and offset are the server's."""
    message = decode_message(pb.Message(topic="other", offset=9))
    assert len(message.id) == 36
    assert (message.source, message.type) == ("urn:trivium", "trivium.message")
    assert message.content_type == "application/octet-stream"
    assert (message.time, message.subject, message.key) == (None, None, None)
    Limits().check(message)


@pytest.mark.parametrize("count", [11, 100_000])
def test_too_many_messages_are_refused_before_they_are_made(count: int) -> None:
    """A request with more messages than a batch may hold says how many, small and large ones alike."""
    with pytest.raises(TooLarge, match=f"messages: {count} messages, at most 10 in one batch"):
        decode_publish(pb.PublishRequest, b"\x12\x00" * count, LIMITS)


@pytest.mark.parametrize(("count", "field"), [(1, "attributes"), (2, "messages[1].attributes")])
def test_too_many_attributes_are_refused_before_they_are_decoded(count: int, field: str) -> None:
    """A request has room for a million."""
    bad = pb.Message(attributes={f"a{number}": "" for number in range(LIMITS.extensions + 1)})
    raw = pb.PublishRequest(topic="t", messages=[pb.Message(), bad][2 - count :]).SerializeToString()
    with pytest.raises(InvalidArgument, match="must be at most") as raised:
        decode_publish(pb.PublishRequest, raw, LIMITS)
    assert raised.value.field == field


def test_garbage_names_what_was_expected() -> None:
    """Bytes that are no request are an invalid argument that names the message of the .proto."""
    with pytest.raises(InvalidArgument, match=r"request: is no trivium\.v1\.GetDataRequest in protobuf"):
        parse(pb.GetDataRequest, b"\xff")
