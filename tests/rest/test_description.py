"""The OpenAPI document is true: every route, status and answer is held against it."""

import asyncio
from typing import Any

import httpx2
import jsonschema_rs
import msgspec
import pytest

from core.errors import DeadlineExceeded, PermissionDenied, Unauthenticated, Unavailable
from core.gate import OpenGate
from core.keys import KeyRing
from core.messages import new_message
from core.service import LocalService
from core.settings import Settings
from tests.rest.wire import Reply, connected, request
from transports.rest.description import Description
from transports.rest.door import RestDoor
from transports.rest.handlers import Handlers
from transports.rest.openapi import document
from transports.rest.requests import Request
from transports.rest.routes import operations

DOCUMENT = document("1.2.3")
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
STATUSES = [(name, int(status)) for name, (_, _, one) in OPERATIONS.items() for status in one["responses"]]
ID = "0f4c-17"
BODIES = {
    "postData": (b'{"message": "x"}', "application/json"),
    "publish": (b"x", "text/plain"),
    "createKey": (b'{"principal": "shop"}', "application/json"),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, rest_body_seconds=0.1)


def test_names_what_is_routed(service: LocalService, health: Any, settings: Settings) -> None:
    """The table that routes requests and the document know the same operations."""
    table = operations(Handlers(OpenGate(service, settings), health, settings), Description("1"))
    assert {one.name: (one.method, one.path) for one in table} == {
        name: (method, path) for name, (method, path, _) in OPERATIONS.items()
    }


def test_holds_valid_schemas_and_examples() -> None:
    """Every schema is one, and every example is what its schema says."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        for example in schema.get("examples", []):
            _validate({"$ref": f"#/components/schemas/{name}"}, example)
    for _, _, operation in OPERATIONS.values():
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [one["content"] for one in operation["responses"].values() if "content" in one]
        for content in contents:
            for media in content.values():
                if "example" in media:
                    _validate(media["schema"], media["example"])
        for parameter in operation.get("parameters", []):
            if isinstance(parameter.get("example"), int):
                _validate(parameter["schema"], parameter["example"])


async def test_is_served(http: httpx2.AsyncClient) -> None:
    """`/openapi.json` is the document of this version."""
    answer = await http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    assert answer.json()["info"]["version"] == "1.2.3"


async def test_has_a_page_that_needs_no_network(http: httpx2.AsyncClient) -> None:
    """`/docs` loads nothing but the document beside it, and may not."""
    answer = await http.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; connect-src 'self'" in answer.headers["content-security-policy"]
    assert 'fetch("openapi.json")' in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text


@pytest.mark.parametrize(("name", "status"), STATUSES, ids=lambda one: str(one))
async def test_tells_every_status(
    name: str,
    status: int,
    guarded: RestDoor,
    service: LocalService,
    keys: KeyRing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each status of each operation can be had, and its answer is as the document says."""
    door = guarded
    method, path, operation = OPERATIONS[name]
    if name != "getMessage" or status != 404:
        await service.publish("orders", [new_message(b"x")])
    key, _ = await keys.create("shop")
    path = path.format(topic="orders", offset=1, id="none" if status == 404 else key.id)
    body, media = BODIES.get(name, (b"", ""))
    headers = [f"X-Request-Id: {ID}", f"Idempotency-Key: {name}", f"X-API-Key: {(await keys.create('boss'))[1]}"]
    if status == 200 and method == "POST":
        await _exchange(door, method, path, body, media, *headers)
    elif status == 400:
        path += "?nonsense=1"
    elif status == 404:
        path = path.replace("/orders/", "/orders%2F17/") if name != "getMessage" else path
    elif status == 408:
        headers.append("Content-Length: 10")
        body = b"late"
    elif status == 409 and name == "createKey":
        await keys.create("shop")
    elif status == 409:
        await _exchange(door, method, path, b'{"message": "y"}', media, *headers)
    elif status == 413:
        headers.append("Content-Length: 100000000")
    elif status == 415:
        headers.append("Content-Encoding: gzip")
    elif status == 429:
        door.intake.requests += 10_000
    elif status == 431:
        headers.append(f"X-Long: {'x' * 40_000}")
    elif status in (401, 403, 500, 503, 504):
        errors = {
            401: Unauthenticated("x"),
            403: PermissionDenied("x"),
            500: RuntimeError("x"),
            503: Unavailable("x"),
            504: DeadlineExceeded("x"),
        }

        def fail(*names: object) -> None:
            raise errors[status]

        monkeypatch.setattr(Request, "query", fail)
    service.drain()  # so that a stream ends
    reply = await _exchange(door, method, path, body, media, *headers)
    assert reply.status == status, reply
    _check(operation, reply)


async def test_tells_of_other_methods(guarded: RestDoor) -> None:
    """405 is in no operation's answers, since it is none; what it is like is told apart."""
    reply = await _exchange(guarded, "PUT", "/api/data", b"", "", f"X-Request-Id: {ID}")
    assert reply.headers["allow"] == "GET, HEAD, POST"
    _check({"responses": {"405": {"$ref": "#/components/responses/MethodNotAllowed"}}}, reply)


def _check(operation: Any, reply: Reply) -> None:
    answer = operation["responses"][str(reply.status)]
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    kind = reply.headers["content-type"].partition(";")[0]
    assert kind in answer["content"]
    is_json = kind.endswith("json")
    _validate(answer["content"][kind]["schema"], reply.json() if is_json else reply.body.decode())
    assert "X-Request-Id" in answer["headers"]
    assert reply.headers.get("x-request-id") == (None if reply.status == 431 else ID)  # nobody read its head
    for name, header in answer["headers"].items():
        if header.get("required"):
            assert reply.headers[name.lower()].isdigit() is (header["schema"]["type"] == "integer")


def _validate(schema: Any, value: Any) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(value)


async def _exchange(door: RestDoor, method: str, path: str, body: bytes, media: str, *headers: str) -> Reply:
    kind = [f"Content-Type: {media}"] if media else []
    async with connected(door) as wire, asyncio.timeout(20):
        await wire.send(request(method, path, *kind, *headers, body=body))
        return await wire.reply()
