"""The OpenAPI 3.1 document. The tests hold every route, status and answer against it."""

from typing import Any

from core.service import MAX_PAGE, MAX_WAIT_SECONDS, PAGE_BYTES
from transports.cloudevents import BATCH, STRUCTURED
from transports.documents import PROBLEM
from transports.rest.schemas import CURSOR, DATA, EVENT, KEY, NEW_KEY, OFFSET, PUBLISHED, STORED, Schema, ref, schemas
from transports.rest.streams import EVENT_STREAM

_JSON = "application/json"

_ABOUT = """
One log, three doors: what is published here can be read over gRPC and from RabbitMQ, and the other way round.

A message is stored once, durably, before it is acknowledged. Its place is its offset in its topic: 1, 2, 3, ...
without gaps. Publishing the same `id` of the same `source` again answers with the first offset and `duplicate: true`:
after an error whose outcome is unknown, repeat with the same id.

`Prefer: wait=<seconds>` (RFC 7240) ends a call with 504 that takes longer. `GET /api/data` answers with the whole event
if `Accept` is `application/cloudevents+json`.

`HEAD` works where `GET` does. A path that is not listed here is 404, another method 405 with `Allow`. Every error is a
problem document (RFC 9457). Every answer has the id of its request in `X-Request-Id`, unless the head could not be
read (400, 431).
""".strip()

_REASONS = {
    400: ("BadRequest", "A value breaks a rule; `field` names it."),
    401: ("Unauthenticated", "No credential, or none that holds; where authentication is required."),
    403: ("PermissionDenied", "The policy has no grant for this."),
    404: ("NotFound", "Nothing is there."),
    405: ("MethodNotAllowed", "A method that is not listed; `Allow` names those that are."),
    408: ("RequestTimeout", "The body did not arrive in time; nothing was stored."),
    409: ("Conflict", "The identity was published before with other content, or the principal has two live keys."),
    413: ("TooLarge", "A limit of size is passed; `field` names what is too large."),
    415: ("UnsupportedMediaType", "A content type or encoding that is not taken."),
    429: ("Overloaded", "A bound is reached; repeat after `Retry-After` seconds."),
    431: ("HeadersTooLarge", "More than 32 KiB of request line and headers."),
    500: ("Internal", "A defect; the outcome is unknown."),
    503: ("Unavailable", "A part is away; repeat after `Retry-After` seconds, the outcome is unknown."),
    504: ("DeadlineExceeded", "It took too long, the outcome is unknown."),
}
_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 0}}}
#: Headers that belong to a status.
_TELLING: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"description": "Bearer.", "required": True, "schema": {"type": "string"}}},
    405: {"Allow": {"description": "Methods.", "required": True, "schema": {"type": "string"}}},
    429: _RETRY,
    503: _RETRY,
}
_OWN_ID = "The id of the request, if it is at most 128 letters, digits and `._~:/+=@-`; else it gets one."
_ABOVE = "Above the newest offset it is 400."
_PAGE = f"At most so many. A page also ends at {PAGE_BYTES >> 20} MiB: it may be shorter though more messages follow."
_ID: Schema = {"$ref": "#/components/headers/RequestId"}
_GIVEN_ID: Schema = {"$ref": "#/components/parameters/RequestId"}
#: These can meet any request.
_ALWAYS = (400, 408, 413, 429, 431, 500, 503, 504)
#: `--auth none` needs no credential.
_OPTIONAL: list[Schema] = [{}, {"bearer": []}, {"key": []}]
#: And these any that is not for everybody.
_GUARDED = (401, 403)


def document(version: str) -> Schema:
    """The whole document, as plain values."""
    messages = "/api/topics/{topic}/messages"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Trivium",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "data", "description": "The shortest way in and out."},
            {"name": "messages", "description": "Publishing and reading."},
            {"name": "keys", "description": "API keys, for administrators."},
            {"name": "service", "description": "What runs here, and how it is."},
        ],
        "paths": {
            "/api/data": {"get": _get_data(), "post": _post_data()},
            messages: {"post": _publish(), "get": _read_messages()},
            f"{messages}/{{offset}}": {"get": _get_message()},
            "/api/topics/{topic}/stream": {"get": _follow()},
            "/api/topics": {"get": _list_topics()},
            "/api/keys": {"post": _create_key(), "get": _list_keys()},
            "/api/keys/{id}": {"delete": _revoke_key()},
            "/livez": {"get": _simple("live", "Does the process run?", _ok("It runs.", "Status"), security=[])},
            "/readyz": {"get": _ready()},
            "/openapi.json": {"get": _simple("openapi", "This document.", _content("It.", _JSON, {"type": "object"}))},
            "/docs": {"get": _simple("docs", "A page to read.", _content("It.", "text/html", {"type": "string"}))},
        },
        "components": {
            "schemas": schemas(),
            "responses": dict(_problem(status) for status in _REASONS),
            "parameters": {"RequestId": _header("X-Request-Id", {"type": "string"}, _OWN_ID)},
            "headers": {"RequestId": {"description": "The id of the request.", "schema": {"type": "string"}}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
            },
        },
        "security": _OPTIONAL,
    }


def _get_data() -> Schema:
    topic = _query("topic", ref("Topic"), "The default topic if it is left out.")
    answer = _ok("The newest message, or the greeting while there is none.", "Data", DATA)
    answer["200"]["content"][STRUCTURED] = {"schema": ref("StoredEvent"), "example": STORED}
    answer["200"]["headers"] = _stale()
    return _operation("getData", "data", "Read the newest message", answer, parameters=[topic])


def _post_data() -> Schema:
    return _operation(
        "postData",
        "data",
        "Publish a text to the default topic",
        _published("Published"),
        (409, 415),
        parameters=_identity() + _trace(),
        requestBody={"required": True, "content": {_JSON: {"schema": ref("Text"), "example": {"message": "hello"}}}},
    )


def _publish() -> Schema:
    # as OpenAPI 3.1 describes bytes; JSON is among them, and not named: generators would send events as such
    plain: Schema = {"schema": {}}
    key = _query("key", {"type": "string", "minLength": 1, "maxLength": 255}, "The same as `ce-partitionkey`.")
    return _operation(
        "publish",
        "messages",
        "Publish a message or a batch",
        _published("Published", "PublishedBatch"),
        (404, 409, 415),
        description="A body of another type than a CloudEvent is a message of that type; `ce-*` headers override what "
        "is filled in. With `ce-specversion` they are a CloudEvent in binary mode: `ce-source` and `ce-type` are "
        "required, and the id is `ce-id` or `Idempotency-Key`. A batch is stored whole or not at all.",
        parameters=[_topic(), key, *_identity(), *_event_headers(), *_trace()],
        requestBody={
            "content": {
                STRUCTURED: {"schema": ref("Event"), "example": EVENT},
                BATCH: {"schema": ref("Batch"), "example": [EVENT]},
                "text/plain": {**plain, "example": "hello"},
                "application/octet-stream": plain,
                "*/*": plain,
            }
        },
    )


def _read_messages() -> Schema:
    wait = {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0}
    parameters = [
        _topic(),
        _query("after", {**CURSOR, "default": 0}, f"The cursor: offsets above it are read. {_ABOVE}"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}, _PAGE),
        _query("wait", wait, "Seconds to wait for a message if there is none."),
    ]
    answer = _ok("Messages in order; none if there are none.", "Page", {"messages": [STORED], "next": 42})
    answer["200"]["headers"] = _stale()
    return _operation("readMessages", "messages", "Read a page", answer, (404,), parameters=parameters)


def _get_message() -> Schema:
    offset = _path("offset", OFFSET, 42)
    answer = _content("The message.", STRUCTURED, ref("StoredEvent"), STORED)
    return _operation("getMessage", "messages", "Read one message", answer, (404,), parameters=[_topic(), offset])


def _follow() -> Schema:
    parameters = [
        _topic(),
        _query("after", CURSOR, f"The cursor; from now on if it is left out. {_ABOVE}"),
        {**_header("Last-Event-ID", CURSOR, "The cursor of a client that reconnects."), "example": 41},
    ]
    answer = _content(
        "Server-sent events: `id` is the offset, `event` is `message`, `data` the CloudEvent. The first frame carries "
        "the cursor as `id` and no data.",
        EVENT_STREAM,
        {"type": "string"},
    )
    return _operation("follow", "messages", "Follow live", answer, (404,), parameters=parameters)


def _list_topics() -> Schema:
    parameters = [
        _query(
            "after", {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$"}, "Continue after this name."
        ),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}, "At most so many."),
    ]
    answer = _ok("Topics by name.", "Topics", {"topics": [{"topic": "orders", "head": 42}], "next": None})
    return _operation("listTopics", "messages", "List the topics", answer, parameters=parameters)


def _create_key() -> Schema:
    created = {"description": "Made.", "content": {_JSON: {"schema": ref("CreatedKey"), "example": NEW_KEY}}}
    example = {"principal": "shop", "days": 90}
    return _operation(
        "createKey",
        "keys",
        "Make a key",
        {"201": created},
        (409, 415),
        requestBody={"required": True, "content": {_JSON: {"schema": ref("KeyRequest"), "example": example}}},
    )


def _list_keys() -> Schema:
    parameters = [
        _query("after", {"type": "string", "pattern": "^([0-9A-Za-z]{12})?$"}, "Continue after the key with this id."),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100}, "At most so many."),
    ]
    answer = _ok("Keys, the oldest first, ended ones included.", "Keys", {"keys": [KEY], "next": None})
    return _operation("listKeys", "keys", "List the keys", answer, parameters=parameters)


def _revoke_key() -> Schema:
    answer = _ok("It has ended, with all that it opened.", "Key", {**KEY, "revoked": "2026-01-31T12:00:00Z"})
    parameters = [_path("id", {"type": "string", "pattern": "^[0-9A-Za-z]{12}$"}, "NoViSVheiSNX")]
    return _operation("revokeKey", "keys", "End a key", answer, (404,), parameters=parameters)


def _ready() -> Schema:
    verbose = _query(
        "verbose", {"enum": ["", "1", "true"]}, "Tell each check; to principals only, where authentication is required."
    )
    answer = _ok("It is ready. While it is not, the answer is 503.", "Status")
    return _operation(
        "ready", "service", "Is the service ready?", answer, (401,), parameters=[verbose], security=_OPTIONAL
    )


def _simple(name: str, summary: str, answer: Schema, **rest: Any) -> Schema:
    return _operation(name, "service", summary, answer, **rest)


def _operation(
    name: str, tag: str, summary: str, answers: Schema, problems: tuple[int, ...] = (), **rest: Any
) -> Schema:
    if "security" not in rest:
        problems = (*problems, *_GUARDED)
    answers = {
        status: {**one, "headers": {"X-Request-Id": _ID, **one.get("headers", {})}} for status, one in answers.items()
    }
    for status in sorted((*_ALWAYS, *problems)):
        answers = {**answers, str(status): {"$ref": f"#/components/responses/{_REASONS[status][0]}"}}
    parameters = [*rest.pop("parameters", []), _GIVEN_ID]
    told = {"operationId": name, "tags": [tag], "summary": summary, "parameters": parameters}
    return {**told, **rest, "responses": answers}


def _problem(status: int) -> tuple[str, Schema]:
    name, description = _REASONS[status]
    headers = {"X-Request-Id": _ID, **_TELLING.get(status, {})}
    return name, {"description": description, "headers": headers, "content": {PROBLEM: {"schema": ref("Problem")}}}


def _content(description: str, media: str, schema: Schema, example: Any = None) -> Schema:
    body = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"200": {"description": description, "content": {media: body}}}


def _ok(description: str, schema: str, example: Any = None) -> Schema:
    return _content(description, _JSON, ref(schema), example)


def _published(*names: str) -> Schema:
    schema = ref(names[0]) if len(names) == 1 else {"oneOf": [ref(name) for name in names]}
    location = {"description": "The path of a single message.", "schema": {"type": "string"}}

    def answer(description: str, example: Schema) -> Schema:
        content = {_JSON: {"schema": schema, "example": example}}
        return {"description": description, "headers": {"Location": location}, "content": content}

    return {
        "201": answer("Stored durably.", PUBLISHED),
        "200": answer("Nothing new was stored: all of it was stored before.", {**PUBLISHED, "duplicate": True}),
    }


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _path(name: str, schema: Schema, example: Any) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _stale() -> Schema:
    """What marks an answer that a process without a store repeats while its core is away."""
    age = {"type": "integer", "minimum": 0}
    return {
        "Age": {"description": "Seconds since a stale answer was current.", "schema": age},
        "Warning": {"description": "Begins with 110 if the answer is stale.", "schema": {"type": "string"}},
    }


def _topic() -> Schema:
    return _path("topic", ref("Topic"), "orders")


def _identity() -> list[Schema]:
    return [_header("Idempotency-Key", {"type": "string"}, "The id of the message, if it brings none; may be quoted.")]


def _event_headers() -> list[Schema]:
    names = ("id", "source", "type", "subject", "time", "partitionkey", "dataschema")
    version = _header("ce-specversion", {"type": "string", "enum": ["1.0"]}, "Says that the headers are a CloudEvent.")
    return [version, *(_header(f"ce-{name}", {"type": "string"}, f"`{name}`, percent-encoded.") for name in names)]


def _trace() -> list[Schema]:
    names = ("traceparent", "tracestate", "baggage")
    return [_header(name, {"type": "string"}, f"Kept as `{name}` if the event has no trace context.") for name in names]
