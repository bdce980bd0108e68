"""What a core answers over gRPC, as values of ours."""

from core.errors import TriviumError
from core.messages import (
    Greeting,
    Page,
    StaleGreeting,
    StaleMessage,
    StalePage,
    StoredMessage,
)
from core.remote.links import Unreachable
from proto.trivium.v1 import messages_pb2 as pb
from transports.grpc.codec import decode_message, decode_time


def foreign() -> Unreachable:
    """What can't be read was not said by a Trivium."""
    return Unreachable("the answer is none of a Trivium")


def decode_stored(one: pb.Message) -> StoredMessage:
    try:
        message = decode_message(one)
        return StoredMessage(one.topic, one.offset, message.time or decode_time(one.time), message)
    except TriviumError as error:
        raise foreign() from error


def decode_data(topic: str, answer: pb.GetDataResponse) -> StoredMessage | Greeting:
    """`topic` is the one that was asked for: a greeting does not tell it."""
    is_stale = answer.HasField("stale")
    if answer.WhichOneof("result") != "message":
        greeting = Greeting(topic, answer.greeting)
        return StaleGreeting(topic, greeting.text, answer.stale.age_seconds) if is_stale else greeting
    stored = decode_stored(answer.message)
    if not is_stale:
        return stored
    return StaleMessage(stored.topic, stored.offset, stored.time, stored.message, answer.stale.age_seconds)


def decode_page(answer: pb.ReadMessagesResponse | pb.FollowResponse) -> Page:
    messages = tuple(map(decode_stored, answer.messages))
    if isinstance(answer, pb.ReadMessagesResponse) and answer.HasField("stale"):
        return StalePage(messages, answer.next, answer.stale.age_seconds)
    return Page(messages, answer.next)
