"""What the admin listener answers with."""

import asyncio
from importlib import import_module
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

import msgspec

from core.errors import InvalidArgument, MethodNotAllowed, NotFound, PermissionDenied, Unavailable
from core.health import Health
from core.logs import LEVELS, log_level, set_log_level
from core.settings import Settings
from core.telemetry.metrics import Metrics
from transports.admin.http import AdminServer, Answer, Handler, Request, problem

#: How `?verbose` may be written.
_VERBOSE = ("verbose", "verbose=", "verbose=1", "verbose=true")


class LogLevel(msgspec.Struct, forbid_unknown_fields=True):
    level: str


class AdminListener:
    """`/metrics`, `/livez`, `/readyz` and `/loglevel`. It is open before anything else, and closed after it."""

    name = "admin"

    def __init__(self, metrics: Metrics, health: Health, settings: Settings) -> None:
        self._metrics = metrics
        self._health = health
        self._host, self._port = settings.admin_host, settings.admin_port
        self._server = AdminServer(self.answer)
        self._exposition: Any = None
        self._writing = asyncio.Lock()
        self._handlers: dict[str, dict[str, Handler]] = {
            "/metrics": {"GET": self._expose},
            "/livez": {"GET": self._live},
            "/readyz": {"GET": self._ready},
            "/loglevel": {"GET": self._level, "PUT": self._set_level},
        }

    async def __aenter__(self) -> Self:
        """Listen; `OSError` names the address that can't be had."""
        self._port = await self._server.listen(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    @property
    def address(self) -> str:
        return f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"

    async def answer(self, request: Request) -> Answer:
        handlers = self._handlers.get(request.path)
        if handlers is None:
            raise NotFound(f"nothing is at this path; there are {', '.join(self._handlers)}")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            refused = problem(MethodNotAllowed(f"{request.method} is not among {allowed}", field="method"))
            return msgspec.structs.replace(refused, headers=(("Allow", allowed),))
        return await handler(request)

    async def _expose(self, request: Request) -> Answer:
        """Figures are read at once, on the loop; a thread writes them down, since that takes longer."""
        compress = "gzip" in request.headers.get("accept-encoding", "")
        async with self._writing:
            figures = self._metrics.collect()
            write = asyncio.to_thread(self._write, figures, request.headers.get("accept", ""), compress)
            text, content_type, is_compressed = await write
        return Answer(text, content_type, headers=(("Content-Encoding", "gzip"),) if is_compressed else ())

    def _write(self, figures: Any, accept: str, compress: bool) -> tuple[bytes, str, bool]:
        if self._exposition is None:  # its library takes 40 ms to import, which the start does not wait for
            self._exposition = import_module("transports.admin.exposition").Exposition()
        written: tuple[bytes, str, bool] = self._exposition.write(figures, accept, compress=compress)
        return written

    async def _live(self, _: Request) -> Answer:
        return _json({"status": "ok"})

    async def _ready(self, request: Request) -> Answer:
        if request.query not in ("", *_VERBOSE):
            raise InvalidArgument("takes nothing but verbose", field="query")
        members: dict[str, Any] = {"checks": self._health.told()} if request.query else {}
        if self._health.ready:
            return _json({"status": "ok", **members})
        return problem(Unavailable(self._health.problem), members=members)

    async def _level(self, _: Request) -> Answer:
        return _json({"level": log_level()})

    async def _set_level(self, request: Request) -> Answer:
        if not ip_address(request.client.partition("%")[0]).is_loopback:
            raise PermissionDenied("the log level is changed from this machine alone")
        try:
            level = msgspec.json.decode(request.body, type=LogLevel).level
        except ValueError as error:  # msgspec's errors, and UnicodeDecodeError
            raise InvalidArgument(f'must be {{"level": <string>}}: {error}', field="body") from error
        if level not in LEVELS:
            raise InvalidArgument(f"must be one of {', '.join(LEVELS)}", field="level")
        set_log_level(level)
        return _json({"level": level})


def _json(document: dict[str, Any]) -> Answer:
    return Answer(msgspec.json.encode(document))
