"""What a core answers over HTTP, as values of ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Raw, Struct

from core.errors import TriviumError, let_go
from core.messages import (
    Greeting,
    Page,
    Published,
    StaleGreeting,
    StaleMessage,
    StalePage,
    StoredMessage,
    TopicPage,
)
from core.remote.links import Unreachable, told
from transports.cloudevents import STRUCTURED, decode_stored
from transports.documents import PROBLEM


class Response(Struct, frozen=True):
    """A whole answer. The names of `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Page(Struct):
    messages: list[Raw]
    next: int


class _Batch(Struct):
    messages: tuple[Published, ...]


class _Greeting(Struct):
    message: str
    topic: str


class _Problem(Struct):
    code: str
    detail: str
    field: str | None = None
    retry_after: float | None = None


_page = msgspec.json.Decoder(_Page)
_batch = msgspec.json.Decoder(_Batch)
_greeting = msgspec.json.Decoder(_Greeting)
_topics = msgspec.json.Decoder(TopicPage)
_problem = msgspec.json.Decoder(_Problem)


def data(answer: Response) -> StoredMessage | Greeting:
    age = _age(answer)
    with _understood():
        if answer.headers.get("content-type") != STRUCTURED:
            greeting = _greeting.decode(answer.body)
            if age is None:
                return Greeting(greeting.topic, greeting.message)
            return StaleGreeting(greeting.topic, greeting.message, age)
        found = decode_stored(answer.body)
    return found if age is None else StaleMessage(found.topic, found.offset, found.time, found.message, age)


def page(answer: Response) -> Page:
    age = _age(answer)
    with _understood():
        document = _page.decode(answer.body)
        messages = tuple(map(decode_stored, document.messages))
    return Page(messages, document.next) if age is None else StalePage(messages, document.next, age)


def stored(answer: Response) -> StoredMessage:
    with _understood():
        return decode_stored(answer.body)


def published(answer: Response) -> tuple[Published, ...]:
    with _understood():
        return _batch.decode(answer.body).messages


def topics(answer: Response) -> TopicPage:
    with _understood():
        return _topics.decode(answer.body)


def error_of(answer: Response) -> TriviumError | Unreachable:
    """What a Trivium answered with; `Unreachable` if that is not one."""
    if answer.headers.get("content-type") == PROBLEM:
        with suppress(ValueError, RecursionError):  # as below
            problem = _problem.decode(answer.body)
            prefix = f"{problem.field}: "  # the detail is for people, and names the field too
            detail = problem.detail.removeprefix(prefix)
            return told(problem.code, detail, field=problem.field, retry_after=problem.retry_after)
    seconds = answer.headers.get("retry-after", "")
    is_sane = seconds.isdecimal() and len(seconds) < 10  # else it may be infinite
    return Unreachable(f"status {answer.status}", retry_after=float(seconds) if is_sane else None)


@contextmanager
def _understood() -> Iterator[None]:
    """What can't be read was not said by a Trivium."""
    try:
        yield
    except (ValueError, KeyError, RecursionError, TriviumError) as error:  # msgspec's errors, and UnicodeDecodeError
        raise Unreachable("the answer is none of a Trivium") from let_go(error)


def _age(answer: Response) -> float | None:
    """The age of a stale answer (RFC 9111, section 5.1, and the warning 110 of RFC 7234, section 5.5)."""
    age = answer.headers.get("age", "")
    is_stale = answer.headers.get("warning", "").startswith("110 ") and age.isdecimal()
    return float(age) if is_stale else None
