"""What log lines look like."""

import contextvars
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
import structlog

from core import VERSION
from core.logs import LogFormat, configure_logging
from core.settings import Settings
from core.telemetry.requests import RequestIds


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(level: str, log_format: Literal["auto", "text", "json"], stream: io.StringIO) -> str:
    """What one line of ours, one of a library's and an error come to."""
    configure_logging(level, log_format, stream)
    ours = structlog.get_logger("test.ours")
    ours.info("door is open", door="rest")
    logging.getLogger("test.theirs").warning("%s bottles", 3)
    try:
        raise ValueError("a cause")
    except ValueError:
        ours.exception("it failed")
    return stream.getvalue()


def test_json_is_one_object_a_line_for_ours_and_theirs() -> None:
    """In the names of the Elastic Common Schema; what it has no name for does not clash with any of them."""
    found = [json.loads(line) for line in lines("info", "json", io.StringIO()).splitlines()]
    ours, theirs, failed = found
    assert ours | {"@timestamp": ""} == {
        "@timestamp": "",
        "log.level": "info",
        "message": "door is open",
        "ecs.version": "8.11.0",
        "log.logger": "test.ours",
        "service.name": "trivium",
        "service.version": VERSION,
        "trivium.door": "rest",
    }
    assert datetime.fromisoformat(ours["@timestamp"]).tzinfo == UTC
    assert (theirs["message"], theirs["log.level"], theirs["log.logger"]) == ("3 bottles", "warning", "test.theirs")
    assert failed["log.level"] == "error"
    assert (failed["error.type"], failed["error.message"]) == ("ValueError", "a cause")
    assert failed["error.stack_trace"].startswith("Traceback (most recent call last):\n")


def test_text_is_for_people() -> None:
    """No JSON, no colours where there is no terminal."""
    text = lines("info", "text", io.StringIO())
    assert "door is open" in text
    assert "door=rest" in text
    assert "ValueError: a cause" in text
    assert "\x1b[" not in text
    assert not text.startswith("{")


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    """The default needs no thought."""
    assert lines("info", "auto", io.StringIO()).startswith("{")
    assert "\x1b[" in lines("info", "auto", Terminal())


def test_what_is_below_the_level_is_not_logged() -> None:
    """For the libraries too."""
    text = lines("error", "json", io.StringIO())
    assert [json.loads(line)["message"] for line in text.splitlines()] == ["it failed"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_forges_a_line(log_format: LogFormat) -> None:
    """What a client chose is on one line, and a terminal obeys nothing in it."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    evil = "a\nb\r\x1b[2J\x9b\u202e\u2028\x7f\0"
    structlog.get_logger("test").info("topic", topic=evil, topics=[evil])
    logging.getLogger("test.theirs").warning("got %s", evil)
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert not set(text) & set(evil.replace("a", "").replace("b", "").replace("[2J", "").replace("\n", ""))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_not_logged(log_format: LogFormat) -> None:
    """By the name of the field, in any URL, and wherever a known secret stands: escaped, encoded, in a traceback."""
    stream = io.StringIO()
    url = "amqp://user:canary%2F%22bird@host/"
    configure_logging("info", log_format, stream, secrets=Settings(amqp_url=url).secrets)
    log = structlog.get_logger("test")
    log.info('it is canary/"bird', url=url, password="fish", api_token="fish", authorization="Bearer fish")
    log.info("nested", where={"the": ['canary/"bird']}, bytes=b'canary/"bird')
    log.info("another", url="postgres://user:fish@host/db?x=1")
    logging.getLogger("test.theirs").warning("can't connect to %s", url)
    secret = 'canary/"bird'
    try:
        raise ValueError(f"no login with {secret}")
    except ValueError:
        log.exception("it failed")
    text = stream.getvalue()
    assert "canary" not in text
    assert "fish" not in text
    assert text.count("[redacted]") >= 10
    assert "host" in text


def test_the_default_password_is_no_secret() -> None:
    """It is also a user's name and a word; short ones would be found everywhere."""
    stream = io.StringIO()
    configure_logging("info", "json", stream, secrets=(*Settings().secrets, "abc"))
    structlog.get_logger("test").info("abcde", address="amqp://guest@127.0.0.1:5672/")
    line = json.loads(stream.getvalue())
    assert (line["message"], line["trivium.address"]) == ("abcde", "amqp://guest@127.0.0.1:5672/")


def test_lines_tell_their_request() -> None:
    """Its id, its trace and who asks, in libraries' lines too; nothing of it where there is none."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    def serve() -> None:
        request = RequestIds().begin(b"abc-1", [(b"traceparent", f"00-{trace}-{span}-01".encode())])
        request.principal = "alice"
        structlog.get_logger("test").info("ours")
        logging.getLogger("test.theirs").info("theirs")

    contextvars.copy_context().run(serve)
    structlog.get_logger("test").info("no request")
    *served, other = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in served:
        assert (line["http.request.id"], line["user.name"]) == ("abc-1", "alice")
        assert (line["trace.id"], line["span.id"]) == (trace, span)
    assert not {"http.request.id", "user.name", "trace.id"} & set(other)


def test_what_json_can_not_hold_is_logged_all_the_same() -> None:
    """As its `repr`; half a surrogate pair does no harm."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    structlog.get_logger("test").info("odd", path=Path("/x"), name="\udc80", number=float("inf"))
    line = json.loads(stream.getvalue())
    assert line["trivium.path"] == "PosixPath('/x')"
