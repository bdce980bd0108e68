"""Publishing over HTTP: plain bodies, CloudEvents, and what makes a repeat a repeat."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from core.messages import StoredMessage
from core.service import LocalService

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MESSAGES = "/api/topics/orders/messages"
EVENT = {"specversion": "1.0", "id": "1", "source": "urn:shop", "type": "order.placed"}
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "urn:shop", "ce-type": "order.placed"}


async def _stored(service: LocalService, offset: int = 1, topic: str = "orders") -> StoredMessage:
    return await service.get_message(topic, offset)


async def test_stores_a_plain_body(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A body of any type is a message of that type; id, source, type and time are filled in."""
    answer = await http.post(MESSAGES, content=b"\x00\x01", headers={"content-type": "image/png"})
    stored = await _stored(service)
    assert answer.status_code == 201
    assert answer.json() == {"topic": "orders", "offset": 1, "id": stored.message.id, "duplicate": False}
    assert answer.headers["location"] == f"{MESSAGES}/1"
    assert (stored.message.data, stored.message.content_type) == (b"\x00\x01", "image/png")
    assert (stored.message.source, stored.message.type) == ("urn:trivium", "trivium.message")
    assert stored.message.id[14] == "7"  # UUIDv7


async def test_keeps_the_form_that_curl_sends(http: httpx2.AsyncClient, service: LocalService) -> None:
    """`curl -d hello` says that its body is a form; it is kept as it is."""
    form = "application/x-www-form-urlencoded"
    assert (await http.post(MESSAGES, content=b"hello", headers={"content-type": form})).status_code == 201
    assert (await http.get(f"{MESSAGES}/1")).json()["data"] == "hello"


async def test_takes_a_body_without_a_type_for_bytes(http: httpx2.AsyncClient, service: LocalService) -> None:
    """Without a content type a plain body is `application/octet-stream`."""
    await http.post(MESSAGES, content=b"hello")
    assert (await _stored(service)).message.content_type == "application/octet-stream"


async def test_stores_an_empty_body(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A message may have no data."""
    assert (await http.post(MESSAGES)).status_code == 201
    assert (await _stored(service)).message.data == b""


async def test_overrides_what_is_filled_in(http: httpx2.AsyncClient, service: LocalService) -> None:
    """With a plain body each `ce-` header stands for itself, and `?key=` is their partition key."""
    headers = {"ce-source": "urn:shop", "ce-time": "2026-01-31T12:00:00.5Z", "ce-subject": "17", "ce-shop": "berlin"}
    await http.post(MESSAGES, params={"key": "customer 7"}, content=b"x", headers=headers)
    message = (await _stored(service)).message
    assert (message.source, message.type, message.subject) == ("urn:shop", "trivium.message", "17")
    assert message.time == datetime(2026, 1, 31, 12, 0, 0, 500000, tzinfo=UTC)
    assert (message.key, message.attributes) == ("customer 7", {"shop": "berlin"})


@pytest.mark.parametrize("key", ["abc", '"abc"'])
async def test_repeats_by_idempotency_key(http: httpx2.AsyncClient, service: LocalService, key: str) -> None:
    """The key is the id, quoted or not: a repeat answers 200 with the first offset and stores nothing."""
    first = await http.post(MESSAGES, content=b"x", headers={"idempotency-key": "abc"})
    second = await http.post(MESSAGES, content=b"x", headers={"idempotency-key": key})
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {"topic": "orders", "offset": 1, "id": "abc", "duplicate": True}
    assert second.headers["location"] == first.headers["location"]


async def test_refuses_a_key_with_other_content(http: httpx2.AsyncClient, service: LocalService) -> None:
    """The same key with another body is a conflict, and nothing is stored."""
    await http.post(MESSAGES, content=b"x", headers={"idempotency-key": "abc"})
    answer = await http.post(MESSAGES, content=b"y", headers={"idempotency-key": "abc"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await http.get(MESSAGES)).json()["next"] == 1


async def test_stores_a_binary_event(http: httpx2.AsyncClient, service: LocalService) -> None:
    """In binary mode the headers are the attributes and the body is the data, byte for byte."""
    headers = {**BINARY, "content-type": "application/json", "ce-partitionkey": "7", "ce-dataschema": "urn:order:1"}
    await http.post(MESSAGES, content=b'{"a" : 1}', headers=headers)
    message = (await _stored(service)).message
    assert (message.id, message.source, message.type, message.key) == ("1", "urn:shop", "order.placed", "7")
    assert (message.data, message.content_type) == (b'{"a" : 1}', "application/json")
    assert message.attributes == {"dataschema": "urn:order:1"}


async def test_takes_the_id_of_a_binary_event_from_the_key(http: httpx2.AsyncClient, service: LocalService) -> None:
    """Without `ce-id` the `Idempotency-Key` is the id."""
    headers = {name: value for name, value in BINARY.items() if name != "ce-id"}
    await http.post(MESSAGES, content=b"x", headers={**headers, "idempotency-key": '"k-1"'})
    assert (await _stored(service)).message.id == "k-1"


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"100%25", "100%"),
        (b"%41", "A"),
        (b'"two words"', "two words"),
        (rb'"a \"quoted\" \\ word"', 'a "quoted" \\ word'),
        (b'"quoted %E2%82%AC"', "quoted €"),
        ("roh: ä".encode(), "roh: ä"),
        (b"%2520", "%20"),
    ],
)
async def test_decodes_header_values(http: httpx2.AsyncClient, service: LocalService, wire: bytes, value: str) -> None:
    """Values are unquoted, then percent-decoded once (CloudEvents HTTP binding, section 3.1.3.2)."""
    await http.post(MESSAGES, content=b"x", headers={**_bytes(BINARY), b"ce-subject": wire})
    assert (await _stored(service)).message.subject == value


async def test_stores_a_structured_event(http: httpx2.AsyncClient, service: LocalService) -> None:
    """In structured mode everything is in the body; JSON data is kept verbatim, `?key=` fills in a missing key."""
    body = b'{"specversion":"1.0","id":"1","source":"urn:shop","type":"t","count":7,"data":{"a" : [1,\n2]}}'
    await http.post(
        MESSAGES, params={"key": "k"}, content=body, headers={"content-type": f"{STRUCTURED}; charset=UTF-8"}
    )
    message = (await _stored(service)).message
    assert (message.data, message.content_type) == (b'{"a" : [1,\n2]}', "application/json")
    assert (message.key, message.attributes) == ("k", {"count": "7"})


async def test_the_content_type_tells_the_mode(http: httpx2.AsyncClient, service: LocalService) -> None:
    """Attributes of an event in JSON may stand in headers too (CloudEvents HTTP binding, section 3.2.3)."""
    body = json.dumps({**EVENT, "subject": "its own", "data": 1}).encode()
    for form, sent, status in ((STRUCTURED, body, 201), (BATCH, b"[%b]" % body, 200)):
        headers = {**BINARY, "ce-subject": "of the headers", "content-type": form}
        assert (await http.post(MESSAGES, content=sent, headers=headers)).status_code == status
    message = (await _stored(service)).message
    assert (message.id, message.subject, message.data) == ("1", "its own", b"1")


async def test_stores_a_batch(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A batch answers 201 with a place each if anything was stored, and 200 if nothing was."""
    events = [{**EVENT, "id": "1"}, {**EVENT, "id": "2"}, {**EVENT, "id": "1"}]
    answers = [
        await http.post(MESSAGES, content=json.dumps(batch), headers={"content-type": BATCH})
        for batch in (events[:1], events, events)
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 200]
    places = [(one["offset"], one["duplicate"]) for one in answers[1].json()["messages"]]
    assert places == [(1, True), (2, False), (1, True)]


async def test_refuses_a_batch_as_a_whole(http: httpx2.AsyncClient, service: LocalService) -> None:
    """One bad message is named by its index, and none is stored."""
    events: list[Any] = [{**EVENT, "id": "1"}, {**EVENT, "id": "2", "time": "yesterday"}]
    answer = await http.post(MESSAGES, content=json.dumps(events), headers={"content-type": BATCH})
    assert (answer.status_code, answer.json()["field"]) == (400, "messages[1].time")
    assert (await http.get("/api/topics")).json()["topics"] == []


async def test_keeps_the_trace_of_the_request(http: httpx2.AsyncClient, service: LocalService) -> None:
    """The W3C headers of a request become attributes of a message that has no trace context."""
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "a=1"}
    await http.post(MESSAGES, content=b"x", headers=trace)
    assert (await _stored(service)).message.attributes == trace
    await http.post(MESSAGES, content=b"x", headers={**BINARY, **trace, "ce-traceparent": "the-event's"})
    assert (await _stored(service, 2)).message.attributes == {"traceparent": "the-event's"}


async def test_joins_several_headers_of_one_list(http: httpx2.AsyncClient, service: LocalService) -> None:
    """`tracestate` may come in several headers, which are one list; without `traceparent` it is of no use."""
    headers = [("tracestate", "a=1"), ("tracestate", "b=2")]
    parent = f"00-{1:032x}-{1:016x}-01"
    await http.post(MESSAGES, content=b"x", headers=[*headers, ("traceparent", parent)])
    assert (await _stored(service)).message.attributes == {"traceparent": parent, "tracestate": "a=1,b=2"}
    await http.post(MESSAGES, content=b"x", headers=headers)
    assert (await _stored(service, 2)).message.attributes == {}


@pytest.mark.parametrize(
    "odd", [b"", b"x" * 5000, b"\xff\xfe", "ä".encode(), b"00-a-b-01", b"00-%032d-%016d-01" % (0, 1)]
)
async def test_ignores_an_odd_trace(http: httpx2.AsyncClient, service: LocalService, odd: bytes) -> None:
    """A trace header that breaks a rule does not fail the publish."""
    assert (await http.post(MESSAGES, content=b"x", headers={b"traceparent": odd})).status_code == 201
    assert (await _stored(service)).message.attributes == {}


async def test_two_parents_are_none(http: httpx2.AsyncClient, service: LocalService) -> None:
    """Of two spans neither is the one that caused it, and the state of neither says anything; the baggage stays."""
    headers = [("traceparent", f"00-{1:032x}-{number:016x}-01") for number in (1, 2)]
    await http.post(MESSAGES, content=b"x", headers=[*headers, ("tracestate", "a=1"), ("baggage", "b=2")])
    assert (await _stored(service)).message.attributes == {"baggage": "b=2"}


async def test_leaves_the_trace_out_where_it_does_not_fit(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A message with as many extensions as it may have is stored without the trace of its request."""
    extensions = {f"ce-x{number}": "1" for number in range(32)}
    headers = {**BINARY, **extensions, "traceparent": f"00-{1:032x}-{1:016x}-01"}
    assert (await http.post(MESSAGES, content=b"x", headers=headers)).status_code == 201
    assert "traceparent" not in (await _stored(service)).message.attributes


async def test_drops_what_belongs_to_the_server(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A stored event can be published again as it is: `topic` and `offset` are dropped."""
    await http.post(MESSAGES, content=b'{"a":1}', headers={**BINARY, "content-type": "application/json"})
    event = (await http.get(f"{MESSAGES}/1")).content
    answer = await http.post("/api/topics/copy/messages", content=event, headers={"content-type": STRUCTURED})
    assert answer.json() == {"topic": "copy", "offset": 1, "id": "1", "duplicate": False}
    assert (await _stored(service, 1, "copy")).message.data == b'{"a":1}'


def _bytes(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in headers.items()}
