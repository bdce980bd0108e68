"""What is published through HTTP is stored as it was meant, for whatever a client may think of."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidArgument, TriviumError
from core.limits import Limits
from core.messages import Message, StoredMessage, new_message
from transports import cloudevents
from transports.rest.credentials import FIELDS
from transports.rest.publishing import messages_of
from transports.rest.requests import Request, integer, percent_decode, seconds, unquote
from transports.rest.streams import frame_of

LIMITS = Limits()
_TIME = datetime(2026, 1, 31, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), min_size=1, max_size=50)
NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: (
        name
        not in ("specversion", "id", "source", "type", "subject", "time", "partitionkey", "datacontenttype", "data")
        and name not in ("topic", "offset", "dataschema")
    )
)


def _request(headers: Mapping[bytes, bytes], body: bytes = b"", query: bytes = b"") -> Request:
    scope = {
        "method": "POST",
        "headers": list(headers.items()),
        FIELDS: headers,
        "path_params": {},
        "query_string": query,
    }

    async def receive() -> Any:
        raise AssertionError

    return Request(scope, receive, body, None, None)


def _encoded(text: str) -> bytes:
    return quote(text, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()


@given(st.binary(max_size=100), TEXT, TEXT, TEXT, TEXT, st.dictionaries(NAMES, TEXT, max_size=5))
def test_binary_mode_is_the_inverse_of_its_encoding(
    data: bytes, id: str, source: str, type: str, subject: str, extensions: dict[str, str]
) -> None:
    """Attributes that are percent-encoded as the binding says arrive as they were."""
    attributes = {"specversion": "1.0", "id": id, "source": source, "type": type, "subject": subject, **extensions}
    headers = {f"ce-{name}".encode(): _encoded(value) for name, value in attributes.items()}
    (message,), is_batch = messages_of(_request(headers, data), None, LIMITS)
    expected = new_message(data, id=id, source=source, type=type, subject=subject, attributes=extensions)
    assert (message, is_batch) == (expected, False)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), TEXT, st.sampled_from(["1.0", "text/plain", "eA=="]))
MEMBERS = st.sampled_from(
    [
        "specversion",
        "id",
        "source",
        "type",
        "datacontenttype",
        "subject",
        "time",
        "partitionkey",
        "data",
        "data_base64",
        "topic",
        "ext",
    ]
)
PLAIN = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


@given(st.dictionaries(MEMBERS, VALUES).map(lambda members: PLAIN | members))
def test_plain_events_are_read_as_all_others(members: dict[str, Any]) -> None:
    """The short way that most events take ends as the long one does: with the same message, or the same error."""
    found: list[Any] = []
    for decode in (cloudevents.decode_event, partial(cloudevents._decode_any, required=cloudevents.REQUIRED)):
        try:
            found.append(decode(msgspec.json.encode(members), LIMITS))
        except InvalidArgument as error:
            found.append((error.field, error.detail))
    assert found[0] == found[1]


@given(st.lists(st.dictionaries(MEMBERS, VALUES).map(lambda members: PLAIN | members), min_size=1, max_size=4))
def test_batches_are_read_as_their_events_are_alone(events: list[dict[str, Any]]) -> None:
    """The short way of a batch ends as the long one does: with the same messages, or the error of the first bad one."""
    expected: Any = []
    try:
        for event in events:
            expected.append(cloudevents._decode_any(msgspec.json.encode(event), LIMITS, cloudevents.REQUIRED))
    except InvalidArgument as error:
        expected = (f"messages[{len(expected)}].{error.field}", error.detail)
    try:
        found: Any = cloudevents.decode_batch(msgspec.json.encode(events), LIMITS)
    except InvalidArgument as error:
        found = (error.field, error.detail)
    assert found == expected


@pytest.mark.parametrize("data", [b'"\xff"', b'{"a":\xff}'])
def test_a_batch_that_is_not_utf8_is_refused(data: bytes) -> None:
    """Also where its data would be kept as it came."""
    event = msgspec.json.encode(PLAIN)[:-1] + b',"data":' + data + b"}"
    with pytest.raises(InvalidArgument, match="must be UTF-8") as caught:
        cloudevents.decode_batch(b"[" + event + b"]", LIMITS)
    assert caught.value.field == "body"


@pytest.mark.parametrize(
    "decode", [cloudevents.decode_event, lambda body, limits: cloudevents.decode_batch(b"[%b]" % body, limits)]
)
def test_data_of_any_depth_is_taken_or_refused(decode: Callable[[bytes, Limits], Any]) -> None:
    """At no depth is it another error, by which a message of RabbitMQ would come again and again."""
    event = msgspec.json.encode(PLAIN | {"ext": "x"})

    def is_taken(depth: int) -> bool:
        try:
            decode(b'%b,"data":%b%b}' % (event[:-1], b"[" * depth, b"]" * depth), LIMITS)
        except InvalidArgument as error:
            assert "deeply" in str(error)  # noqa: PT017 - one of many depths
            return False
        return True

    first = bisect_left(range(200_000), True, key=lambda depth: not is_taken(depth))
    found = [is_taken(depth) for depth in range(first - 9, first + 9)]
    assert found == sorted(found, reverse=True)
    assert {*found} == {True, False}


@given(
    st.dictionaries(
        st.sampled_from([b"ce-specversion", b"ce-id", b"ce-time", b"ce-x", b"content-type", b"idempotency-key"]),
        st.binary(max_size=30) | st.sampled_from([b"1.0", b"application/cloudevents+json", b'"a"']),
    ),
    st.binary(max_size=50) | st.sampled_from([b"{}", b'{"specversion":"1.0"}', b"[]"]),
)
def test_nonsense_is_refused_or_taken(headers: dict[bytes, bytes], body: bytes) -> None:
    """Whatever comes is a message or an error of ours, never another exception."""
    with suppress(TriviumError):
        messages, _ = messages_of(_request(headers, body), None, LIMITS)
        LIMITS.check_batch(messages)


@given(st.text())
def test_percent_decoding_is_the_inverse_of_encoding(text: str) -> None:
    """Decoding undoes what the standard library encodes."""
    assert percent_decode(quote(text, safe="").encode(), "x") == text


@given(st.binary())
def test_percent_decoding_refuses_or_decodes(value: bytes) -> None:
    """Any bytes are text or bad input."""
    with suppress(InvalidArgument):
        percent_decode(value, "x")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_unquoting_is_the_inverse_of_quoting(text: str) -> None:
    """A string that is quoted as RFC 9651 says is unquoted to itself."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert unquote(f'"{quoted}"', "x") == text


@given(st.dictionaries(st.sampled_from(["after", "limit", "key"]), st.text()))
def test_queries_are_the_inverse_of_their_encoding(parameters: dict[str, str]) -> None:
    """A form-encoded query is read as it was meant, plus signs for spaces included."""
    query = urlencode(parameters).encode()
    assert _request({}, query=query).query("after", "limit", "key") == parameters


@given(st.text(max_size=30))
def test_numbers_are_digits_or_refused(text: str) -> None:
    """Only decimal digits are numbers: no signs, spaces, exponents, or digits of other scripts."""
    for read in (integer, seconds):
        with suppress(InvalidArgument):
            assert read(text, "x") is not None
            assert set(text) <= set("-.0123456789")


@given(st.lists(st.sampled_from(["\n", "\r", "\r\n", " ", "1", ",", "\u2028"]), max_size=20))
def test_frames_hold_one_event_each(parts: list[str]) -> None:
    """Whatever line ends the data holds, a frame is one event, and its lines are those of the data."""
    data = "".join(parts)
    message = Message(id="1", source="s", type="t", data=f'["{data}"]'.encode(), content_type="application/json")
    frame = frame_of(StoredMessage("t", 7, _TIME, message)).decode()
    assert frame.endswith("\n\n")
    lines = frame[:-2].split("\n")
    assert lines[:2] == ["id: 7", "event: message"]
    assert all(line.startswith("data: ") for line in lines[2:])
    assert "\r" not in frame
    joined = "\n".join(line.removeprefix("data: ") for line in lines[2:])
    assert data.replace("\r\n", "\n").replace("\r", "\n") in joined


def test_refuses_a_query_that_holds_too_much() -> None:
    """A parameter that an operation does not have is named, cut to a readable length."""
    with pytest.raises(InvalidArgument) as raised:
        _request({}, query=b"x" * 1000).query("after")
    assert raised.value.field == "x" * 40
