"""Bad input: a clear error that names the field, and no effect."""

import json
from typing import Any

import httpx2
import pytest

from core.errors import TriviumError
from transports.documents import STATUS

MESSAGES = "/api/topics/orders/messages"
JSON = {"content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "urn:shop", "ce-type": "order.placed"}
EVENT = {"specversion": "1.0", "id": "1", "source": "urn:shop", "type": "order.placed"}

INVALID, TOO_LARGE, UNSUPPORTED = (400, "invalid_argument"), (413, "too_large"), (415, "unsupported_media_type")


def _event(**members: Any) -> bytes:
    return json.dumps({**EVENT, **members}).encode()


def _without(name: str) -> dict[str, str]:
    return {header: value for header, value in BINARY.items() if header != name}


QUERIES = [
    (f"{MESSAGES}?after=-1", "after"),
    (f"{MESSAGES}?after=1", "after"),  # above the head
    (f"{MESSAGES}?after=9007199254740992", "after"),
    (f"{MESSAGES}?after={'9' * 400}", "after"),
    (f"{MESSAGES}?after=x", "after"),
    (f"{MESSAGES}?after=", "after"),
    (f"{MESSAGES}?after=+1", "after"),
    (f"{MESSAGES}?after=1.0", "after"),
    (f"{MESSAGES}?after=%D9%A1", "after"),  # an Arabic digit
    (f"{MESSAGES}?after=0&after=0", "after"),
    (f"{MESSAGES}?limit=0", "limit"),
    (f"{MESSAGES}?limit=1001", "limit"),
    (f"{MESSAGES}?limit=many", "limit"),
    (f"{MESSAGES}?wait=61", "wait"),
    (f"{MESSAGES}?wait=-1", "wait"),
    (f"{MESSAGES}?wait=nan", "wait"),
    (f"{MESSAGES}?wait=1e1", "wait"),
    (f"{MESSAGES}?before=1", "before"),
    (f"{MESSAGES}?%ff=1", "query"),
    (f"{MESSAGES}?after=%zz", "after"),
    (f"{MESSAGES}?after=%ff", "after"),
    (f"{MESSAGES}/0", "offset"),
    (f"{MESSAGES}/-1", "offset"),
    (f"{MESSAGES}/x", "offset"),
    (f"{MESSAGES}/{'9' * 400}", "offset"),
    (f"{MESSAGES}/1?after=1", "after"),
    ("/api/data?topic=", "topic"),
    ("/api/data?topic=a/b", "topic"),
    ("/api/data?topic=a&topic=b", "topic"),
    ("/api/topics?after=-", "after"),
    ("/api/topics?limit=0", "limit"),
    ("/api/topics/.hidden/messages", "topic"),
    (f"/api/topics/{'a' * 201}/messages", "topic"),
    ("/api/topics/a%20b/messages", "topic"),
    ("/api/topics/%ff/messages", "topic"),
    ("/api/topics/a%00/messages", "topic"),
    ("/api/topics/%C3%A4/messages", "topic"),
    ("/api/topics/a/stream?after=1", "after"),
    ("/api/topics/a/stream?after=x", "after"),
    ("/api/topics/-/stream", "topic"),
    ("/readyz?loud", "loud"),
    ("/readyz?verbose=maybe", "verbose"),
]


@pytest.mark.parametrize(("path", "field"), QUERIES)
async def test_refuses_parameters(http: httpx2.AsyncClient, path: str, field: str) -> None:
    """A parameter that breaks a rule is `invalid_argument`, and is named."""
    _assert_problem(await http.get(path), INVALID, field)


@pytest.mark.parametrize("value", ["", "x", "-1", "1", "9" * 30])
@pytest.mark.parametrize("query", ["", "?after=0"])
async def test_refuses_a_last_event_id(http: httpx2.AsyncClient, value: str, query: str) -> None:
    """A `Last-Event-ID` that is no cursor, or above the head, is refused by its name before the stream starts."""
    answer = await http.get(f"/api/topics/a/stream{query}", headers={"last-event-id": value})
    _assert_problem(answer, INVALID, "last-event-id")


async def test_refuses_what_is_wrong_beside_a_last_event_id(http: httpx2.AsyncClient) -> None:
    """What else is wrong is not blamed on it."""
    _assert_problem(await http.get("/api/topics/-/stream", headers={"last-event-id": "0"}), INVALID, "topic")


PUBLISHES: list[tuple[tuple[int, str], str, Any, bytes]] = [
    # CloudEvents in headers
    (INVALID, "id", _without("ce-id"), b""),
    (INVALID, "source", _without("ce-source"), b""),
    (INVALID, "type", _without("ce-type"), b""),
    (INVALID, "id", {**BINARY, "ce-id": ""}, b""),
    (INVALID, "id", {**BINARY, "ce-id": "x" * 256}, b""),
    (INVALID, "specversion", {**BINARY, "ce-specversion": "0.3"}, b""),
    (INVALID, "time", {**BINARY, "ce-time": "yesterday"}, b""),
    (INVALID, "time", {**BINARY, "ce-time": "2026-01-31T12:00:00"}, b""),
    (INVALID, "ce-subject", {**BINARY, "ce-subject": "100%"}, b""),
    (INVALID, "ce-subject", {**BINARY, "ce-subject": "%F"}, b""),
    (INVALID, "ce-subject", {**BINARY, "ce-subject": "%C3%28"}, b""),
    (INVALID, "ce-subject", {**BINARY, "ce-subject": '"open'}, b""),
    (INVALID, "ce-subject", [*BINARY.items(), (b"ce-subject", b"\xff")], b""),
    (INVALID, "subject", {**BINARY, "ce-subject": "%00"}, b""),
    (INVALID, "ce-subject", [*BINARY.items(), ("ce-subject", "a"), ("ce-subject", "b")], b""),
    (INVALID, "attributes['my_name']", {**BINARY, "ce-my_name": "x"}, b""),
    (INVALID, "attributes['datacontenttype']", {**BINARY, "ce-datacontenttype": "text/plain"}, b""),
    (INVALID, "attributes['data']", {**BINARY, "ce-data": "x"}, b""),
    (INVALID, "attributes", {**BINARY, **{f"ce-x{number}": "1" for number in range(33)}}, b""),
    (TOO_LARGE, "attributes", {**BINARY, "ce-long": "x" * 9000}, b""),
    (INVALID, "subject", {**BINARY, "ce-subject": "%EF%BF%BF"}, b""),
    # plain bodies
    (INVALID, "id", {"idempotency-key": ""}, b"x"),
    (INVALID, "idempotency-key", {"idempotency-key": '"open'}, b"x"),
    (INVALID, "idempotency-key", [("idempotency-key", "a"), ("idempotency-key", "b")], b"x"),
    (INVALID, "content-type", [("content-type", "text/plain"), ("content-type", "text/html")], b"x"),
    (INVALID, "content_type", {"content-type": "nonsense"}, b"x"),
    (INVALID, "content_type", {"content-type": "text/plain; charset"}, b"x"),
    (INVALID, "data", JSON, b"{"),
    (INVALID, "data", JSON, b"[1] [2]"),
    (INVALID, "data", JSON, b'"\xff"'),
    (INVALID, "data", JSON, b"[" * 100_000),
    (INVALID, "data", {"content-type": "text/plain"}, b"\xff"),
    (TOO_LARGE, "data", {}, b"x" * 1024 * 1024),  # the limit counts the attributes too
    # structured events
    (INVALID, "body", STRUCTURED, b""),
    (INVALID, "body", STRUCTURED, b"{"),
    (INVALID, "body", STRUCTURED, b"[]"),
    (INVALID, "body", STRUCTURED, b'{"id": "\xff"}'),
    (INVALID, "specversion", STRUCTURED, b"{}"),
    (INVALID, "specversion", STRUCTURED, _event(specversion="2.0")),
    (INVALID, "id", STRUCTURED, _event(id=None)),
    (INVALID, "id", STRUCTURED, _event(id="")),
    (INVALID, "count", STRUCTURED, _event(count=1.5)),
    (INVALID, "list", STRUCTURED, _event(list=[1])),
    (INVALID, "attributes['Count']", STRUCTURED, _event(Count=1)),
    (INVALID, "attributes", STRUCTURED, _event(**{f"x{number}": [] for number in range(50)})),  # counted before read
    (INVALID, "time", STRUCTURED, _event(time="noon")),
    (INVALID, "data", STRUCTURED, _event(data="x", data_base64="eA==")),
    (INVALID, "data", STRUCTURED, _event(datacontenttype="text/plain", data={"a": 1})),
    (INVALID, "body", STRUCTURED, _event(datacontenttype="text/plain", data="\ud800")),
    (INVALID, "data_base64", STRUCTURED, _event(data_base64="?")),
    # batches
    (INVALID, "body", BATCH, b"{}"),
    (INVALID, "messages", BATCH, b"[]"),
    (INVALID, "messages[0].body", BATCH, b"[1]"),
    (INVALID, "messages[1].source", BATCH, b"[%b, %b]" % (_event(), _event(id="2", source=None))),
    (TOO_LARGE, "messages", BATCH, b"[%b]" % b",".join([_event()] * 1001)),
    (TOO_LARGE, "messages", BATCH, b"[%b]" % b",".join([_event(data_base64="?")] * 1001)),  # counted before read
    (TOO_LARGE, "messages", BATCH, b"[%b]" % b",".join([b"{}"] * 1001)),
    (TOO_LARGE, "messages", BATCH, b"[%b]" % b",".join(_event(id=str(one), data="x" * 900_000) for one in range(5))),
    # types and encodings
    (UNSUPPORTED, "content-encoding", {"content-encoding": "gzip"}, b"x"),
    (UNSUPPORTED, "content-type", {"content-type": "application/cloudevents+protobuf"}, b"x"),
    (UNSUPPORTED, "content-type", {"content-type": "application/cloudevents"}, b"x"),
    (UNSUPPORTED, "content-type", {"content-type": "application/cloudevents+json; charset=latin1"}, b"{}"),
]


@pytest.mark.parametrize(("problem", "field", "headers", "body"), PUBLISHES)
async def test_refuses_messages(
    http: httpx2.AsyncClient, problem: tuple[int, str], field: str, headers: Any, body: bytes
) -> None:
    """A message that breaks a rule is refused with the name of what is wrong, and leaves nothing behind."""
    _assert_problem(await http.post(MESSAGES, headers=headers, content=body), problem, field)
    assert (await http.get("/api/topics")).json()["topics"] == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"{MESSAGES}?key=", "key"),
        (f"{MESSAGES}?key={'k' * 256}", "key"),
        (f"{MESSAGES}?key=a&key=b", "key"),
        (f"{MESSAGES}?topic=a", "topic"),
        ("/api/topics/.a/messages", "topic"),
        ("/api/data?topic=a", "topic"),
    ],
)
async def test_refuses_parameters_of_a_publish(http: httpx2.AsyncClient, path: str, field: str) -> None:
    """Publishing is as strict about its parameters as reading."""
    answer = await http.post(path, content=b'{"message": "x"}', headers=JSON)
    _assert_problem(answer, INVALID, field)
    assert (await http.get("/api/topics")).json()["topics"] == []


async def test_refuses_two_keys(http: httpx2.AsyncClient) -> None:
    """A message that brings another partition key than the request is refused."""
    answer = await http.post(f"{MESSAGES}?key=a", headers={**BINARY, "ce-partitionkey": "b"})
    _assert_problem(answer, INVALID, "key")
    same = await http.post(f"{MESSAGES}?key=a", headers={**BINARY, "ce-partitionkey": "a"})
    assert same.status_code == 201


@pytest.mark.parametrize(
    ("problem", "field", "headers", "body"),
    [
        (INVALID, "body", JSON, b""),
        (INVALID, "body", JSON, b"hello"),
        (INVALID, "body", JSON, b'{"message": 1}'),
        (INVALID, "body", JSON, b'{"massage": "x"}'),
        (INVALID, "body", JSON, b'{"message": "x", "topic": "y"}'),
        (INVALID, "body", JSON, b'{"message": "\xff"}'),
        (INVALID, "body", JSON, rb'{"message": "\ud800"}'),
        (INVALID, "body", JSON, b'{"message": ' + b"[" * 100_000),
        (INVALID, "idempotency-key", {**JSON, "idempotency-key": '"'}, b'{"message": "x"}'),
        (UNSUPPORTED, "content-type", {"content-type": "text/plain"}, b"hello"),
        (UNSUPPORTED, "content-encoding", {**JSON, "content-encoding": "br"}, b"hello"),
    ],
)
async def test_refuses_texts(
    http: httpx2.AsyncClient, problem: tuple[int, str], field: str, headers: Any, body: bytes
) -> None:
    """`POST /api/data` takes `{"message": <string>}` and nothing else."""
    _assert_problem(await http.post("/api/data", headers=headers, content=body), problem, field)
    assert (await http.get("/api/topics")).json()["topics"] == []


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/data/", "/api/data%0A", "/api/topics//messages", "/api/topics/a/messages/1/2", "//"]
)
async def test_knows_no_other_paths(http: httpx2.AsyncClient, path: str) -> None:
    """A path that is not in the table is `not_found`, whatever the method."""
    for method in ("GET", "POST", "HEAD", "PATCH"):
        answer = await http.request(method, path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/data", "GET, HEAD, POST"),
        ("DELETE", MESSAGES, "GET, HEAD, POST"),
        ("POST", f"{MESSAGES}/1", "GET, HEAD"),
        ("OPTIONS", "/livez", "GET, HEAD"),
        ("BREW", "/docs", "GET, HEAD"),
        ("TRACE", "/api/topics", "GET, HEAD"),
    ],
)
async def test_refuses_methods(http: httpx2.AsyncClient, method: str, path: str, allow: str) -> None:
    """Another method is `method_not_allowed`, and `Allow` tells which there are."""
    answer = await http.request(method, path, content=b"x")
    _assert_problem(answer, (405, "method_not_allowed"), "method")
    assert answer.headers["allow"] == allow


async def test_survives_odd_headers(http: httpx2.AsyncClient) -> None:
    """Bytes beyond ASCII in headers that nobody reads change nothing."""
    assert (await http.get("/api/data", headers={b"x-odd": b"\xff\xfe", b"cookie": b"\x80"})).status_code == 200


def test_tells_every_error() -> None:
    """Each error of the core has its status."""
    assert set(STATUS) == set(TriviumError.__subclasses__())


def _assert_problem(answer: httpx2.Response, problem: tuple[int, str], field: str) -> None:
    document = answer.json()
    assert (answer.status_code, document["code"], document.get("field")) == (*problem, field), document
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:trivium:problem:{document['code']}"
    assert document["detail"].startswith(f"{field}: ")
    assert document["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
