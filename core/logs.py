"""Logging: structlog for our own lines and for those of the libraries, text on a terminal, JSON otherwise.

The JSON is flat, in the names of the Elastic Common Schema; what it has no name for is `trivium.<name>`.
"""

import json
import logging
import sys
from collections.abc import Sequence
from io import StringIO
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from core import VERSION
from core.redaction import Redactor, escape
from core.telemetry.requests import current

LogFormat = Literal["auto", "text", "json"]
LEVELS = ("debug", "info", "warning", "error")

ECS_VERSION = "8.11.0"


def configure_logging(
    level: str, log_format: LogFormat, stream: TextIO = sys.stderr, *, secrets: Sequence[str] = ()
) -> None:
    """Send every log line to `stream`, without `secrets`. Called once, by `main`."""
    as_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    redactor = Redactor(secrets)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _add_request,
    ]
    rendering: list[Processor] = (
        [_escape_values, structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_write_exception)]
        if as_text
        else [_exception_to_ecs, _to_ecs, _render_json]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _Formatter(
            redactor,
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redactor.fields,
                *rendering,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Redacts last of all: nothing is added after it."""

    def __init__(self, redactor: Redactor, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.line(super().format(record))


def log_level() -> str:
    """The least level that is logged now."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_log_level(level: str) -> None:
    """Log what is at least `level`, one of `LEVELS`, from now on."""
    logging.getLogger().setLevel(level.upper())


def _add_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the request that is being served where the line is written."""
    request = current.get()
    if request is not None:
        event["http.request.id"] = request.id
        if request.principal is not None:
            event["user.name"] = request.principal
        if (trace := request.trace()) is not None:
            event["trace.id"], event["span.id"] = trace
    return event


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Who may choose a value that is logged must not forge lines, nor move the cursor of who reads them."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = escape(value)
    return event


def _write_exception(stream: TextIO, error: ExcInfo) -> None:
    """A plain traceback: the default shows local variables where it can, and with them secrets."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    stream.write("\n".join(map(escape, plain.getvalue().split("\n"))))


def _exception_to_ecs(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["error.type"] = type(error).__qualname__
        event["error.message"] = str(error)
        formatted = structlog.processors.format_exc_info(logger, method, {"exc_info": error})
        event["error.stack_trace"] = formatted["exception"]
    return event


def _to_ecs(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    line: dict[str, Any] = {
        "@timestamp": event.pop("timestamp"),
        "log.level": event.pop("level"),
        "message": event.pop("event"),
        "ecs.version": ECS_VERSION,
        "log.logger": event.pop("logger"),
        "service.name": "trivium",
        "service.version": VERSION,
    }
    for name, value in event.items():
        if value is not None:
            line[name if "." in name else f"trivium.{name}"] = value
    return line


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return json.dumps(event, default=repr).replace("\x7f", "\\u007f")  # the one control character that JSON lets stand
