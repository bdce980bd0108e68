"""Which handler answers at which path: one table, from which the router is built and the document is checked."""

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

import structlog
from msgspec import Struct
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from core.errors import Internal, MethodNotAllowed, NotFound, TriviumError
from core.telemetry.meter import CANCELLED, OK, Instrument, Meter
from transports.rest.answers import Answer, Sender, problem
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.intake import BODY
from transports.rest.presence import ClientGone
from transports.rest.requests import Request
from transports.rest.streams import EventStream

log = structlog.get_logger("trivium.rest")

#: What is counted where no operation was found.
UNKNOWN = "Unknown"

Handler = Callable[[Request], Awaitable[Answer | EventStream]]


class Operation(Struct, frozen=True):
    """One method of one path, by the name that the OpenAPI document gives it."""

    path: str
    method: str
    name: str
    handler: Handler

    @property
    def metric(self) -> str:
        """Its name in metrics, where all doors use that of gRPC."""
        return "Publish" if self.name == "postData" else f"{self.name[0].upper()}{self.name[1:]}"


def operations(handlers: Handlers, description: Description) -> list[Operation]:
    """All that the door does, the most wanted first: the router tries them in this order."""
    messages = "/api/topics/{topic}/messages"
    return [
        Operation("/api/data", "GET", "getData", handlers.get_data),
        Operation("/api/data", "POST", "postData", handlers.post_data),
        Operation(messages, "POST", "publish", handlers.publish),
        Operation(messages, "GET", "readMessages", handlers.read_messages),
        Operation(f"{messages}/{{offset}}", "GET", "getMessage", handlers.get_message),
        Operation("/api/topics/{topic}/stream", "GET", "follow", handlers.follow),
        Operation("/api/topics", "GET", "listTopics", handlers.list_topics),
        Operation("/livez", "GET", "live", handlers.live),
        Operation("/readyz", "GET", "ready", handlers.ready),
        Operation("/openapi.json", "GET", "openapi", description.openapi),
        Operation("/docs", "GET", "docs", description.docs),
    ]


def router(table: list[Operation], sender: Sender, meter: Meter, unknown: Instrument) -> Router:
    """The ASGI application of the table. `unknown` counts what is for none of its operations."""
    counted: dict[str, Instrument] = {
        name: meter.operation(name, describe) for name in dict.fromkeys(operation.metric for operation in table)
    }
    resources: dict[str, dict[str, tuple[Handler, Instrument]]] = {}
    for operation in table:
        resources.setdefault(operation.path, {})[operation.method] = (operation.handler, counted[operation.metric])
    routes = [Route(path, Resource(served, sender, unknown)) for path, served in resources.items()]
    return Router(routes, redirect_slashes=False, default=Resource({}, sender, unknown))


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


class Resource:
    """What answers at one path, as a bare ASGI application: Starlette's requests and responses cost a fifth more.

    Without any handler it is what answers at unknown paths.
    """

    def __init__(self, handlers: Mapping[str, tuple[Handler, Instrument]], sender: Sender, unknown: Instrument) -> None:
        self._handlers = dict(handlers)
        self._unknown = unknown
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]  # the server leaves the body out
        self._allow = ((b"allow", ", ".join(sorted(self._handlers)).encode()),)
        self._sender = sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = perf_counter()
        handler, instrument = self._handlers.get(scope["method"], (None, self._unknown))
        code, status = CANCELLED, 0
        try:
            answer = self._refusal(scope) if handler is None else await self._answer(handler, scope, receive)
            if isinstance(answer, Answer):
                sent = await self._sender.send(answer, scope, send)
                code, status = sent.code, sent.status
            else:
                await answer.send(scope, receive, send)
                code, status = OK, 200
        finally:
            instrument.ended(code, begun, (scope, status))

    async def _answer(self, handler: Handler, scope: Scope, receive: Receive) -> Answer | EventStream:
        try:
            return await handler(Request(scope, receive, scope[BODY]))
        except TriviumError as error:
            return problem(error, scope)
        except ClientGone:
            raise
        except Exception:
            log.exception("a request failed", method=scope["method"], path=scope["path"])
            return problem(Internal("an unexpected error; the log tells more"), scope)

    def _refusal(self, scope: Scope) -> Answer:
        if not self._handlers:
            return problem(NotFound("nothing is at this path; /docs tells what there is"), scope)
        method = scope["method"][:20]
        error = MethodNotAllowed(f"{method} is not among {self._allow[0][1].decode()}", field="method")
        return problem(error, scope, headers=self._allow)
