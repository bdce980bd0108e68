"""Which handler answers at which path: one table, from which the router is built and the document is checked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import Struct
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from core import deadlines
from core.errors import Internal, MethodNotAllowed, NotFound, TriviumError
from transports.rest.answers import Answer, Sender, problem
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.intake import BODY
from transports.rest.presence import ClientGone
from transports.rest.requests import Request
from transports.rest.streams import EventStream

log = structlog.get_logger("trivium.rest")

Handler = Callable[[Request], Awaitable[Answer | EventStream]]


class Operation(Struct, frozen=True):
    """One method of one path, by the name that the OpenAPI document gives it."""

    path: str
    method: str
    name: str
    handler: Handler


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


def router(table: list[Operation], sender: Sender) -> Router:
    """The ASGI application of the table."""
    resources: dict[str, dict[str, Handler]] = {}
    for operation in table:
        resources.setdefault(operation.path, {})[operation.method] = operation.handler
    routes = [Route(path, Resource(handlers, sender)) for path, handlers in resources.items()]
    return Router(routes, redirect_slashes=False, default=Resource({}, sender))


class Resource:
    """What answers at one path, as a bare ASGI application: Starlette's requests and responses cost a fifth more.

    Without any handler it is what answers at unknown paths.
    """

    def __init__(self, handlers: Mapping[str, Handler], sender: Sender) -> None:
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]  # the server leaves the body out
        self._allow = ((b"allow", ", ".join(sorted(self._handlers)).encode()),)
        self._sender = sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope, receive)
        if isinstance(answer, Answer):
            await self._sender.send(answer, scope, send)
        else:
            await answer.send(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | EventStream:
        handler = self._handlers.get(scope["method"])
        if handler is None:
            return self._refusal(scope)
        try:
            request = Request(scope, receive, scope[BODY])
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
        if not self._handlers:
            return problem(NotFound("nothing is at this path; /docs tells what there is"), scope)
        method = scope["method"][:20]
        error = MethodNotAllowed(f"{method} is not among {self._allow[0][1].decode()}", field="method")
        return problem(error, scope, headers=self._allow)
