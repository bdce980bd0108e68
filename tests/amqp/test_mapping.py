"""Messages as AMQP carries them, against the CloudEvents SDK."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties

from core.errors import InvalidArgument, TooLarge, TriviumError, UnsupportedMediaType
from core.limits import MAX_OFFSET, Limits
from core.messages import Message, StoredMessage, new_message, same_content
from transports.amqp import mapping, properties

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=40)
names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: (
        name not in ("id", "source", "type", "specversion", "time", "subject", "datacontenttype", "data")
        and name not in ("partitionkey", "topic", "offset")
    )
)
extensions = st.dictionaries(
    st.one_of(names, st.sampled_from(["traceparent", "tracestate", "baggage"])), text, max_size=5
)
messages = st.builds(
    Message,
    id=text,
    source=text,
    type=text,
    data=st.binary(max_size=100),
    content_type=st.sampled_from(["application/octet-stream", "image/png", "application/x.y;a=b"]),
    subject=st.none() | text,
    time=st.none()
    | st.integers(-62_000_000_000, 250_000_000_000).map(
        lambda seconds: NOW + timedelta(seconds=seconds - 1_800_000_000)
    ),
    key=st.none() | text,
    attributes=extensions,
)


def read(body: bytes = b"", **fields: Any) -> Message:
    return mapping.message_of(properties.decode(b"".join(BasicProperties(**fields).encode())), body, Limits())


@given(messages)
def test_what_is_relayed_reads_as_it_was(message: Message) -> None:
    """All attributes and the data come through; the time is the stored one."""
    Limits().check(message)
    stored = StoredMessage("topic", 7, message.time or NOW, message)
    again = mapping.message_of(properties.decode(mapping.properties_of(stored)), message.data, Limits())
    assert same_content(again, message)
    assert again.time == stored.time
    assert again.attributes == message.attributes


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
def test_headers_of_amqp_1_0_are_understood(prefix: str) -> None:
    """As its CloudEvents binding has them; where both are there, `ce-*` wins."""
    attributes = {"specversion": "1.0", "id": "7", "source": "urn:x", "type": "t", "subject": "s", "ext": "e"}
    headers = {prefix + name: value for name, value in attributes.items()}
    message = read(headers={"ce-id": "8", **headers}, message_id="9")
    assert (message.id, message.source, message.type) == ("8", "urn:x", "t")
    assert (message.subject, message.attributes) == ("s", {"ext": "e"})
    with pytest.raises(InvalidArgument, match="specversion"):
        read(headers={prefix + "specversion": "0.3"})


def test_the_longest_attributes_are_relayed() -> None:
    """Of as many bytes as the limits allow, and the longest topic and the largest offset."""
    longest = "é" * 127 + "x"
    message = new_message(b"", id=longest, source=longest, type=longest, subject=longest, key=longest)
    Limits().check(message)
    found = properties.decode(mapping.properties_of(StoredMessage("t" * 200, MAX_OFFSET, NOW, message)))
    assert same_content(mapping.message_of(found, b"", Limits()), message)
    assert found.headers[mapping.TOPIC_HEADER] == "t" * 200
    assert found.headers[mapping.OFFSET_HEADER] == MAX_OFFSET
    assert found.headers["ce-specversion"] == "1.0"


@given(messages)
def test_the_sdk_reads_what_is_relayed(message: Message) -> None:
    """The CloudEvents SDK finds every attribute in the headers."""
    stored = StoredMessage("topic", 7, message.time or NOW, message)
    found = BasicProperties().decode(mapping.properties_of(stored))
    headers = {name: value for name, value in found.headers.items() if isinstance(value, str)}
    event = from_binary(RabbitMQMessage(headers, found.content_type, message.data), JSONFormat())
    assert event.get_id() == message.id
    assert event.get_source() == message.source
    assert event.get_type() == message.type
    assert event.get_subject() == message.subject
    assert event.get_time() == stored.time
    assert event.get_datacontenttype() == message.content_type
    assert event.get_extension("partitionkey") == message.key
    data = event.get_data()  # as text, where it could be some
    assert (data.encode() if isinstance(data, str) else data or b"") == message.data


def test_the_contract_of_the_wire() -> None:
    """Properties and headers by their names, each value in its type."""
    message = new_message(
        b"{}", id="é 1", source="/s", type="t", content_type="application/json", subject="s", key="k",
        attributes={"ext": "e", "traceparent": "00-1", "dataschema": "urn:d"},
    )  # fmt: skip
    found = BasicProperties().decode(mapping.properties_of(StoredMessage("orders", 12, NOW, message)))
    assert found.headers == {
        "x-trivium-topic": "orders",
        "x-trivium-offset": 12,
        "ce-specversion": "1.0",
        "ce-id": "é 1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-time": "2026-01-31T12:00:00.123456Z",
        "ce-subject": "s",
        "ce-partitionkey": "k",
        "ce-ext": "e",
        "ce-dataschema": "urn:d",
        "traceparent": "00-1",
    }
    assert (found.content_type, found.message_id, found.type) == ("application/json", "é 1", "t")
    assert (found.delivery_mode, found.timestamp) == (2, int(NOW.timestamp()))


def test_a_time_before_1970_has_no_timestamp() -> None:
    """AMQP's is unsigned."""
    stored = StoredMessage("t", 1, datetime(1969, 1, 1, tzinfo=UTC), new_message(b""))
    found = BasicProperties().decode(mapping.properties_of(stored))
    assert found.timestamp is None
    assert found.headers["ce-time"] == "1969-01-01T00:00:00Z"


def test_headers_win_over_properties_and_those_over_fill_ins() -> None:
    """`ce-*`, then properties, then what Trivium fills in."""
    fields: dict[str, Any] = {"message_id": "p", "type": "pt", "timestamp": 1}
    both = read(headers={"ce-id": "h", "ce-type": "ht", "ce-time": "2026-01-01T00:00:00Z"}, **fields)
    assert (both.id, both.type, both.time) == ("h", "ht", datetime(2026, 1, 1, tzinfo=UTC))
    some = read(**fields, content_type="text/plain")
    assert (some.id, some.type, some.time) == ("p", "pt", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert some.content_type == "text/plain"
    none = read()
    assert (none.source, none.type, none.time) == ("urn:trivium", "trivium.message", None)
    assert none.content_type == "application/octet-stream"
    assert none.id != read().id


def test_headers_of_other_types_become_canonical_strings() -> None:
    """Booleans, integers and times, as CloudEvents writes them; void is absent; others are ignored."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    message = read(headers={"ce-b": True, "ce-i": -5, "ce-t": when, "ce-n": None, "x-trivium-offset": 5, "other": [1]})
    assert message.attributes == {"b": "true", "i": "-5", "t": "2026-01-01T00:00:00Z"}


def test_trace_context_comes_from_its_own_headers() -> None:
    """They need no prefix, and lose against one that has it."""
    assert read(headers={"traceparent": "a", "ce-baggage": "b", "baggage": "c"}).attributes == {
        "traceparent": "a",
        "baggage": "b",
    }


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"headers": {"ce-x": {"a": 1}}}, "ce-x"),
        ({"headers": {"ce-x": [1]}}, "ce-x"),
        ({"headers": {"ce-x": b"bytes"}}, "ce-x"),
        ({"headers": {"ce-time": "yesterday"}}, "time"),
        ({"headers": {"ce-specversion": "0.3"}}, "specversion"),
        ({"timestamp": 2**64 - 1}, "timestamp"),
        ({"timestamp": 1_764_000_000_000}, "timestamp"),
        ({"type": b"\xff"}, "type"),
        ({"content_type": "application/cloudevents+json"}, "body"),
    ],
)
def test_absurd_properties_are_invalid_argument(fields: dict[str, Any], field: str) -> None:
    """The error names the property."""
    with pytest.raises(InvalidArgument) as caught:
        read(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"content_encoding": "gzip"},
        {"content_type": "application/cloudevents-batch+json"},
        {"content_type": "application/cloudevents+xml"},
    ],
)
def test_what_the_door_does_not_take(fields: dict[str, Any]) -> None:
    """Compressed bodies, batches and other formats are not stored as if they were data."""
    with pytest.raises(UnsupportedMediaType):
        read(**fields)


def test_a_large_event_is_refused_unread() -> None:
    """One that no message can be; RabbitMQ takes bodies of 128 MiB, which take longer to read than a heartbeat."""
    escaped = rb'{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"%s"}'
    whole = read(escaped % (rb"\u0001" * (Limits().message_bytes - 100)), content_type="application/cloudevents+json")
    Limits().check(whole)
    with pytest.raises(TooLarge, match="at most 8388608 in an event"):
        read(b"[" * (8 * 1024 * 1024 + 1), content_type="application/cloudevents+json")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_nothing_else_is_raised(raw: bytes, body: bytes) -> None:
    """Whatever comes is a message or one of our errors."""
    with suppress(TriviumError):
        mapping.message_of(properties.decode(raw), body, Limits())


@pytest.mark.parametrize("mode", [to_binary, to_structured])
def test_what_the_sdk_sends_is_read(mode: Any) -> None:
    """Both modes of the CloudEvents SDK."""
    attributes = {
        "id": "1", "source": "/sdk", "type": "t", "time": NOW, "subject": "s",
        "datacontenttype": "application/json", "ext": "e", "partitionkey": "k",
    }  # fmt: skip
    sent = mode(CloudEvent(attributes, {"a": 1}), JSONFormat())
    message = read(sent.body, headers=sent.headers, content_type=sent.content_type)
    assert (message.id, message.source, message.type, message.subject) == ("1", "/sdk", "t", "s")
    assert (message.time, message.key, message.attributes) == (NOW, "k", {"ext": "e"})
    assert message.content_type == "application/json"
    assert message.data.replace(b" ", b"") == b'{"a":1}'
