"""Which handler answers at which path: one table, from which the router is built and the document is checked."""

from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import Struct
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import Internal, MethodNotAllowed, NotFound, TriviumError
from core.gate import Gate
from core.policy import OPERATIONS, Needs
from transports.rest.answers import Answer, Sender, problem
from transports.rest.credentials import RequestCredentials
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.intake import BODY, SESSION
from transports.rest.presence import ClientGone
from transports.rest.requests import Request
from transports.rest.streams import EventStream

log = structlog.get_logger("trivium.rest")

Handler = Callable[[Request], Awaitable[Answer | EventStream]]


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


def router(table: list[Operation], gate: Gate, sender: Sender) -> ASGIApp:
    """The ASGI application of the table."""
    operations: dict[str, dict[str, Operation]] = {}
    for operation in table:
        operations.setdefault(operation.path, {})[operation.method] = operation
    resources = {path: Resource(methods, gate, sender) for path, methods in operations.items()}
    routes = [Route(path, resource) for path, resource in resources.items() if "{" in path]
    patterns = Router(routes, redirect_slashes=False, default=Resource({}, gate, sender))
    names = {path: resource for path, resource in resources.items() if "{" not in path}

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        """A path without parameters is looked up: to try the patterns would cost a tenth of the whole request."""
        resource = names.get(scope["path"])
        if resource is None:
            await patterns(scope, receive, send)
        else:
            scope["path_params"] = {}
            await resource(scope, receive, send)

    return route


class Resource:
    """What answers at one path, as a bare ASGI application: Starlette's requests and responses cost a fifth more.

    Without any handler it is what answers at unknown paths.
    """

    def __init__(self, methods: Mapping[str, Operation], gate: Gate, sender: Sender) -> None:
        self._handlers = {method: (found.handler, found.public) for method, found in methods.items()}
        if "GET" in methods:
            self._handlers["HEAD"] = self._handlers["GET"]  # the server leaves the body out
        self._allow = ((b"allow", ", ".join(sorted(self._handlers)).encode()),)
        self._gate = gate
        self._sender = sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope, receive)
        if isinstance(answer, Answer):
            await self._sender.send(answer, scope, send)
        else:
            await answer.send(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | EventStream:
        found = self._handlers.get(scope["method"])
        if found is None:
            return self._refusal(scope)
        handler, public = found
        try:
            session = scope.get(SESSION)  # a request with a body was admitted before the body was read
            if session is None and not public:
                session = await self._gate.admit(RequestCredentials(scope))
            return await handler(Request(scope, receive, scope[BODY], session))
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
