"""The values."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.limits import Limits
from core.messages import Message, StoredMessage, new_message, same_content, size_of, uuid7, weight
from proto.trivium.v1 import messages_pb2

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ONE = new_message(b"one", id="1", type="t", content_type="text/plain", subject="s", key="k", attributes={"a": "b"})


def changed(**changes: Any) -> Message:
    """ONE with other values."""
    fields: dict[str, Any] = {name: getattr(ONE, name) for name in ONE.__struct_fields__}
    return Message(**fields | changes)


def test_what_a_publisher_left_out_is_filled_in() -> None:
    """Only the data has to be given."""
    message = new_message(b"x")
    assert (message.source, message.type) == ("urn:trivium", "trivium.message")
    assert (message.content_type, message.subject, message.time) == ("application/octet-stream", None, None)
    assert (message.key, dict(message.attributes)) == (None, {})


def test_what_a_publisher_gave_stays_even_if_it_is_empty() -> None:
    """An empty string is not taken for a missing one: the limits refuse it by its name."""
    message = new_message(b"x", id="", source="", type="", content_type="", subject="", key="")
    assert (message.id, message.source, message.type, message.content_type) == ("", "", "", "")
    assert (message.subject, message.key) == ("", "")


def test_ids_are_uuids_of_version_7_and_carry_the_time() -> None:
    """RFC 9562: version, variant and 48 bits of milliseconds; each comes after the last one."""
    texts = [uuid7() for _ in range(1000)]
    made = [uuid.UUID(text) for text in texts]
    assert [str(one) for one in made] == texts
    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in made)
    assert made == sorted(made)
    assert abs((made[0].int >> 80) / 1000 - datetime.now(UTC).timestamp()) < 60


def test_ids_of_one_millisecond_count_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """None comes twice, and what is random of them is drawn anew for the next millisecond."""
    monkeypatch.setattr("core.messages._time.time_ns", lambda: 1_800_000_000_000_000_000)
    made = [uuid.UUID(uuid7()).int for _ in range(1000)]
    assert made == list(range(made[0], made[0] + 1000))
    monkeypatch.setattr("core.messages._time.time_ns", lambda: 1_800_000_000_001_000_000)
    assert (uuid.UUID(uuid7()).int - made[0]) & (1 << 80) - 1 > 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"data": b"two"},
        {"type": "u"},
        {"content_type": "text/html"},
        {"subject": None},
        {"key": "l"},
        {"attributes": {"a": "c"}},
        {"attributes": {}},
        {"attributes": {"a": "b", "dataschema": "urn:x"}},
    ],
)
def test_other_content_is_not_the_same(changes: dict[str, Any]) -> None:
    """Data and each attribute count."""
    assert not same_content(ONE, changed(**changes))
    assert not same_content(changed(**changes), ONE)


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage"])
def test_trace_context_is_not_content(name: str) -> None:
    """A retry travels in another span."""
    traced = changed(attributes={"a": "b", name: "1"})
    assert same_content(ONE, traced)
    assert same_content(traced, changed(attributes={"a": "b", name: "2"}))
    assert not same_content(traced, changed(attributes={name: "1"}))


def test_time_counts_only_where_both_gave_it() -> None:
    """A publisher without a clock repeats without a time."""
    assert same_content(changed(time=NOON), ONE)
    assert same_content(ONE, changed(time=NOON))
    assert same_content(changed(time=NOON), changed(time=NOON))
    assert not same_content(changed(time=NOON), changed(time=NOON + timedelta(microseconds=1)))


_words = st.text(max_size=60)


@given(
    st.builds(
        Message,
        id=_words,
        source=_words,
        type=_words,
        data=st.binary(max_size=200),
        content_type=_words,
        subject=st.none() | _words,
        time=st.none() | st.just(NOON),
        key=st.none() | _words,
        attributes=st.dictionaries(st.text(alphabet="abc019", min_size=1, max_size=20), _words, max_size=5),
    )
)
def test_the_weight_is_never_less_than_the_protobuf_form(message: Message) -> None:
    """Answers that are cut by weight fit a gRPC client's limit."""
    form = messages_pb2.Message(
        topic="t" * 200,
        offset=2**40,
        id=message.id,
        source=message.source,
        type=message.type,
        data=message.data,
        content_type=message.content_type,
        subject=message.subject,
        key=message.key,
        attributes=message.attributes,
    )
    form.time.FromDatetime(NOON + timedelta(microseconds=1))
    assert form.ByteSize() + 5 <= weight(message)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"subject": None, "key": None, "attributes": {}},
        {"source": "urn:\u00e9", "subject": "\u20ac", "attributes": {"a": "\U0001f600", "dataschema": "urn:x"}},
    ],
)
def test_the_size_is_what_the_limits_count(changes: dict[str, Any]) -> None:
    """Data and all attributes, in UTF-8; what the limits refuse has one too."""
    message = changed(**changes)
    assert size_of(message) == Limits().check(message)
    assert size_of(changed(id="\ud800")) > size_of(ONE)


def test_values_are_frozen() -> None:
    """Nobody changes a message that others read."""
    stored = StoredMessage("t", 1, NOON, ONE)
    with pytest.raises(AttributeError):
        stored.offset = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ONE.id = "2"  # type: ignore[misc]
