"""The REST door as a part of the process."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from core.gate import Gate
from core.health import Health
from core.settings import Settings
from transports.rest.answers import Sender
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.intake import Intake
from transports.rest.routes import operations, router
from transports.rest.serving import HttpServer

#: Connections beside those that followers and waiting reads may take.
_CONNECTIONS = 1000


def _allowing(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """The application for pages of these origins too; browsers keep all others away."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Location", "Retry-After"),
        max_age=600,
    )


class RestDoor:
    """`core.ports.Transport` over HTTP.

    Leaving expects streams to have been ended by the service. It takes no new connection, lets requests that are in
    finish for at most half of `drain_seconds`, and drops the rest.
    """

    name = "rest"

    def __init__(self, gate: Gate, health: Health, settings: Settings, version: str) -> None:
        self._settings = settings
        self._port = settings.rest_port
        sender = Sender(settings.rest_inflight_bytes)
        table = operations(Handlers(health, settings), Description(version))
        self.intake = Intake(router(table, gate, sender), gate, sender, settings)
        app = _allowing(settings.rest_cors_origins, self.intake)
        self._server = HttpServer(app, max_connections=settings.max_streams + _CONNECTIONS)

    async def __aenter__(self) -> Self:
        """Listen; `OSError` names the address that can't be had."""
        self._port = await self._server.listen(self._settings.rest_host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.intake.close()
        await self._server.close(self._settings.drain_seconds / 2)

    @property
    def address(self) -> str:
        host = self._settings.rest_host
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def wait(self) -> None:
        await self._server.wait()
