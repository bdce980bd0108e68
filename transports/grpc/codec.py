"""Requests from protobuf and answers into it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.timestamp_pb2 import Timestamp

from core.errors import InvalidArgument, TriviumError
from core.limits import Limits
from core.messages import (
    DEFAULT_CONTENT_TYPE,
    DEFAULT_SOURCE,
    DEFAULT_TYPE,
    NO_ATTRIBUTES,
    Greeting,
    Message,
    Page,
    Published,
    StaleGreeting,
    StaleMessage,
    StalePage,
    StoredMessage,
    TopicPage,
    uuid7,
)
from proto.trivium.inner.envelope_pb2 import Envelope
from proto.trivium.v1 import messages_pb2 as pb
from transports.encodings import RunEncodings
from transports.grpc.encoding import encode_next, encode_run

_Parsed = TypeVar("_Parsed", bound=ProtobufMessage)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: google.protobuf.Timestamp: from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z, in seconds.
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
#: A request above this may unfold to so much memory that its messages are counted first.
_COUNT_FIRST_BYTES = 64 * 1024


def parse(kind: type[_Parsed], raw: bytes) -> _Parsed:
    """A request from its bytes; `InvalidArgument` if they are none."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"is no {kind.DESCRIPTOR.full_name} in protobuf", field="request") from error


def decode_publish(
    kind: type[pb.PublishRequest] | type[pb.PublishStreamRequest], raw: bytes, limits: Limits
) -> tuple[str, list[Message]]:
    """Topic and messages of a request; `TooLarge` before too many of them were made.

    An empty message takes two bytes in a request and 180 once it is parsed: 8 MiB of them became 750 MiB.
    """
    if len(raw) > _COUNT_FIRST_BYTES:
        limits.check_count(len(parse(Envelope, raw).messages))
    request = parse(kind, raw)
    limits.check_count(len(request.messages))
    if len(request.messages) == 1:
        return request.topic, [decode_message(request.messages[0], limits)]
    messages = []
    for index, message in enumerate(request.messages):
        try:
            messages.append(decode_message(message, limits))
        except TriviumError as error:
            raise error.within(f"messages[{index}]") from error
    return request.topic, messages


def decode_message(message: pb.Message, limits: Limits | None = None) -> Message:
    """A message to publish: what is empty counts as missing, `topic` and `offset` are dropped.

    With `limits` attributes are counted before they are decoded, which for a million of them would take seconds.
    """
    has = message.HasField
    attributes = message.attributes
    if limits is not None and attributes:
        limits.check_extensions(len(attributes))
    return Message(
        id=message.id or uuid7(),
        source=message.source or DEFAULT_SOURCE,
        type=message.type or DEFAULT_TYPE,
        data=message.data,
        content_type=message.content_type or DEFAULT_CONTENT_TYPE,
        subject=message.subject if has("subject") else None,
        time=decode_time(message.time) if has("time") else None,
        key=message.key if has("key") else None,
        attributes=dict(attributes) if attributes else NO_ATTRIBUTES,
    )


def decode_time(time: Timestamp) -> datetime:
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND:
        raise InvalidArgument("its seconds must be within the years 1 to 9999", field="time")
    if not 0 <= time.nanos <= 999_999_999:
        raise InvalidArgument("its nanos must be from 0 to 999999999", field="time")
    return _EPOCH + timedelta(0, time.seconds, time.nanos // 1000)


def encode_time(time: datetime) -> Timestamp:
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def encode_request(topic: str, messages: Iterable[Message]) -> pb.PublishRequest:
    """What `decode_publish` reads."""
    return pb.PublishRequest(
        topic=topic,
        messages=[
            pb.Message(
                id=message.id,
                source=message.source,
                type=message.type,
                subject=message.subject,
                time=None if message.time is None else encode_time(message.time),
                content_type=message.content_type,
                data=message.data,
                key=message.key,
                attributes=message.attributes or None,
            )
            for message in messages
        ],
    )


class EncodedMessages:
    """Answers that hold stored messages, which are encoded once while they are kept.

    Followers of one topic get the same messages, though not always cut into the same pages: so messages and short runs
    of them are kept, not pages. Every answer with stored messages has them as field 1, and protobuf joins answers that
    stand one after another, repeated fields in order: a page is the join of answers that hold its messages, and of one
    that holds its cursor.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept = RunEncodings(encode_run, max_bytes)
        #: A GetMessageResponse, or a GetDataResponse that is current; also a page of one message without its cursor.
        self.one = self._kept.of

    def page(self, page: Page) -> bytes:
        """A ReadMessagesResponse or FollowResponse."""
        cursor = encode_next(page.next)
        if isinstance(page, StalePage):
            cursor += pb.ReadMessagesResponse(stale=pb.Stale(age_seconds=page.age)).SerializeToString()
        return b"".join([*self._kept.all(page.messages), cursor])

    def data(self, newest: StoredMessage | Greeting) -> bytes:
        """A GetDataResponse."""
        if isinstance(newest, StoredMessage):
            answer = self.one(newest)
        else:
            answer = pb.GetDataResponse(greeting=newest.text).SerializeToString()
        if isinstance(newest, StaleMessage | StaleGreeting):
            answer += pb.GetDataResponse(stale=pb.Stale(age_seconds=newest.age)).SerializeToString()
        return answer


def encode_published(published: Sequence[Published]) -> bytes:
    """A PublishResponse; a PublishStreamResponse without a status reads the same.

    Fields are set one by one: messages that are given to a constructor are made, and then copied.
    """
    answer = pb.PublishResponse()
    add = answer.messages.add
    for one in published:
        told = add()
        told.topic = one.topic
        told.offset = one.offset
        told.id = one.id
        if one.duplicate:
            told.duplicate = True
    return answer.SerializeToString()


def encode_topics(page: TopicPage) -> bytes:
    return pb.ListTopicsResponse(
        topics=[pb.Topic(topic=one.topic, head=one.head) for one in page.topics], next=page.next
    ).SerializeToString()
