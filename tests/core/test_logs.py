"""What log lines look like."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from core.logs import configure_logging


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
    """With time, level, logger and the traceback in it."""
    found = [json.loads(line) for line in lines("info", "json", io.StringIO()).splitlines()]
    ours, theirs, failed = found
    assert ours | {"timestamp": ""} == {
        "event": "door is open",
        "door": "rest",
        "level": "info",
        "logger": "test.ours",
        "timestamp": "",
    }
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("3 bottles", "warning", "test.theirs")
    assert failed["level"] == "error"
    assert "ValueError: a cause" in failed["exception"]


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
    assert [json.loads(line)["event"] for line in text.splitlines()] == ["it failed"]
