"""Which handler answers at which path: one table, from which the router is built and the document is checked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any

import structlog
from msgspec import Struct
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from core import deadlines
from core.errors import Internal, MethodNotAllowed, NotFound, TriviumError
from core.gate import Gate
from core.policy import OPERATIONS, Needs
from core.telemetry.meter import CANCELLED, OK, Instrument, Meter
from transports.rest.answers import Answer, Sender, problem
from transports.rest.credentials import SESSION, admit
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.intake import BODY
from transports.rest.presence import ClientGone
from transports.rest.requests import Request
from transports.rest.streams import EventStream

log = structlog.get_logger("trivium.rest")

#: The paths whose resource is remembered: to try the patterns would cost 3 us, and a client names few topics.
_KNOWN_PATHS = 4096
#: Anybody can ask for longer ones, each of them another: they would fill memory.
_KNOWN_CHARACTERS = 512

Handler = Callable[[Request], Awaitable[Answer | EventStream]]
#: What serves a method, whether for everybody, and what counts it.
Served = tuple[Handler, bool, Instrument]


class Operation(Struct, frozen=True):
    """One method of one path, by the name that the OpenAPI document gives it.

    `operation` is the name in the policy's table, which says what the caller needs.
    """

    path: str
    method: str
    name: str
    operation: str
    handler: Handler

    @property
    def public(self) -> bool:
        return OPERATIONS[self.operation] is Needs.NOTHING

    @property
    def metric(self) -> str:
        """Its name in metrics, where all doors use that of gRPC."""
        return "Publish" if self.name == "postData" else f"{self.name[0].upper()}{self.name[1:]}"


def operations(handlers: Handlers, description: Description) -> list[Operation]:
    """All that the door does, the most wanted first: patterns are tried in this order."""
    messages = "/api/topics/{topic}/messages"
    return [
        Operation("/api/data", "GET", "getData", "get_data", handlers.get_data),
        Operation("/api/data", "POST", "postData", "publish", handlers.post_data),
        Operation(messages, "POST", "publish", "publish", handlers.publish),
        Operation(messages, "GET", "readMessages", "read_messages", handlers.read_messages),
        Operation(f"{messages}/{{offset}}", "GET", "getMessage", "get_message", handlers.get_message),
        Operation("/api/topics/{topic}/stream", "GET", "follow", "follow", handlers.follow),
        Operation("/api/topics", "GET", "listTopics", "list_topics", handlers.list_topics),
        Operation("/api/keys", "POST", "createKey", "create_key", handlers.create_key),
        Operation("/api/keys", "GET", "listKeys", "list_keys", handlers.list_keys),
        Operation("/api/keys/{id}", "DELETE", "revokeKey", "revoke_key", handlers.revoke_key),
        Operation("/livez", "GET", "live", "health", handlers.live),
        Operation("/readyz", "GET", "ready", "health", handlers.ready),
        Operation("/openapi.json", "GET", "openapi", "describe", description.openapi),
        Operation("/docs", "GET", "docs", "describe", description.docs),
    ]


def router(table: list[Operation], gate: Gate, sender: Sender, meter: Meter, unknown: Instrument) -> ASGIApp:
    """The ASGI application of the table. `unknown` counts what is for none of its operations."""
    counted = {name: meter.operation(name, describe) for name in dict.fromkeys(one.metric for one in table)}
    methods: dict[str, dict[str, Served]] = {}
    for one in table:
        methods.setdefault(one.path, {})[one.method] = one.handler, one.public, counted[one.metric]
    boundary = Boundary(gate, sender, meter, unknown)
    routes = [Route(path, Resource(served, boundary)) for path, served in methods.items()]
    nothing = Resource({}, boundary)

    def found(path: str) -> tuple[ASGIApp, Mapping[str, str]]:
        """What answers at a path, and the path's parameters."""
        if path.endswith("\n"):  # the patterns end with `$`, which lets it pass
            return nothing, {}
        for one in routes:
            match, details = one.matches({"type": "http", "method": "", "path": path})
            if match is not Match.NONE:
                return one.app, details["path_params"]
        return nothing, {}

    known = lru_cache(_KNOWN_PATHS)(found)

    def route(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        resource, scope["path_params"] = (known if len(path) <= _KNOWN_CHARACTERS else found)(path)
        return resource(scope, receive, send)

    return route


def describe(subject: tuple[Scope, int]) -> dict[str, Any]:
    """A request and the status of its answer (0: none), for the access log."""
    scope, status = subject
    return {
        "http.request.method": scope["method"],
        "http.response.status_code": status or None,
        "http.version": scope["http_version"],
        "url.path": scope["path"],
        "client.address": scope["client"][0] if scope.get("client") else None,
    }


class Boundary(Struct, frozen=True):
    """What all resources share: who is let in, how answers are sent, what is counted."""

    gate: Gate
    sender: Sender
    meter: Meter
    unknown: Instrument


class Resource:
    """What answers at one path, as a bare ASGI application: Starlette's requests and responses cost a fifth more.

    Without any handler it is what answers at unknown paths.
    """

    def __init__(self, served: Mapping[str, Served], boundary: Boundary) -> None:
        self._served = dict(served)
        self._boundary = boundary
        self._unserved: tuple[None, bool, Instrument] = None, True, boundary.unknown
        if "GET" in served:
            self._served["HEAD"] = served["GET"]  # the server leaves the body out
        self._allow = ((b"allow", ", ".join(sorted(self._served)).encode()),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        handler, public, instrument = self._served.get(scope["method"], self._unserved)
        code, status = CANCELLED, 0
        try:
            if handler is None:
                answer: Answer | EventStream = self._refusal(scope)
            else:
                answer = await self._answer(handler, scope, receive, public=public)
            if isinstance(answer, Answer):
                sent = await self._boundary.sender.send(answer, scope, send)
                code, status = sent.code, sent.status
            else:
                await answer.send(scope, receive, send)
                code, status = OK, 200
        finally:
            instrument.ended(code, begun, (scope, status))

    async def _answer(self, handler: Handler, scope: Scope, receive: Receive, *, public: bool) -> Answer | EventStream:
        try:
            session = scope.get(SESSION)  # a request with a body was admitted before the body was read
            if session is None and not public:
                session = await admit(self._boundary.gate, scope)
            service = None if session is None else self._boundary.meter.counting(session.service)
            request = Request(scope, receive, scope[BODY], session, service)
            seconds = request.patience()
            if seconds is None:
                return await handler(request)
            async with deadlines.until(asyncio.get_running_loop().time() + seconds):
                return await handler(request)
        except TriviumError as error:
            return problem(error, scope)
        except ClientGone:
            raise
        except Exception:
            log.exception("a request failed", method=scope["method"], path=scope["path"])
            return problem(Internal("an unexpected error; the log tells more"), scope)

    def _refusal(self, scope: Scope) -> Answer:
        if not self._served:
            return problem(NotFound("nothing is at this path; /docs tells what there is"), scope)
        method = scope["method"][:20]
        error = MethodNotAllowed(f"{method} is not among {self._allow[0][1].decode()}", field="method")
        return problem(error, scope, headers=self._allow)
