"""A request as the handlers see it, and the strict reading of what stands in its headers and query."""

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope

from core.administration import KeyService
from core.errors import InvalidArgument, Unauthenticated, UnsupportedMediaType
from core.gate import Session
from core.limits import check_json, check_offset, is_json
from core.ports import MessageService
from transports.rest.credentials import FIELDS

T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,18}\Z", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?\Z", re.ASCII)
_WAIT = re.compile(rb"(?:^|[,;])[ \t]*wait[ \t]*=[ \t]*([0-9]{1,6})[ \t]*(?:[,;]|$)", re.IGNORECASE)
_PERCENT_SIGN = ord("%")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
#: RFC 9110, section 5.6.4; the String of RFC 9651 is one of these.
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*)"\Z')
_ESCAPE = re.compile(r"\\(.)")


class Request:
    """One request with its whole body. `receive` tells when the client leaves."""

    __slots__ = ("_fields", "_service", "_session", "body", "headers", "method", "path", "receive", "scope")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        body: bytes,
        session: Session | None,
        service: MessageService | None,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.body = body
        self._session = session
        self._service = service
        self.method: str = scope["method"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._fields: dict[bytes, bytes] = scope[FIELDS]
        self.path: dict[str, str] = scope["path_params"]

    @property
    def session(self) -> Session:
        """Who asks. Requests of public operations have none, and so no way to the service."""
        if self._session is None:
            raise Unauthenticated("nobody is known to ask")
        return self._session

    @property
    def service(self) -> MessageService:
        """The service as far as whoever asks may use it."""
        if self._service is None:
            raise Unauthenticated("nobody is known to ask")
        return self._service

    @property
    def keys(self) -> KeyService:
        """The API keys as far as whoever asks may administer them."""
        return self.session.keys

    def header(self, name: bytes) -> str | None:
        """The one value of a header (`name` in lower case); `InvalidArgument` if it is given twice or is not UTF-8."""
        found = self._fields.get(name)
        if found is None:
            return None
        if len(self._fields) < len(self.headers) and sum(key == name for key, _ in self.headers) > 1:
            raise InvalidArgument("must not be given more than once", field=name.decode())
        return utf8(found, name)

    def accepts(self, media: str) -> bool:
        """Whether `Accept` names this type; a type that is the answer of its own accord need not be asked about."""
        wanted = media.encode()
        return b"accept" in self._fields and any(name == b"accept" and wanted in value for name, value in self.headers)

    def patience(self) -> float | None:
        """How long the client waits: the preference `wait` of RFC 7240. What can't be read is ignored, as it says."""
        if b"prefer" in self._fields:
            for name, value in self.headers:
                if name == b"prefer" and (found := _WAIT.search(value)):
                    return float(found[1])
        return None

    def query(self, *names: str) -> dict[str, str]:
        """The query parameters; `InvalidArgument` names one that is unknown, repeated or badly encoded."""
        query: bytes = self.scope["query_string"]
        if not query:
            return {}
        found: dict[str, str] = {}
        for name, value in _pairs(query):
            if name not in names:
                takes = f"; it takes {', '.join(names)}" if names else ""
                raise InvalidArgument(f"is no parameter of this operation{takes}", field=name[:40] or "query")
            if name in found:
                raise InvalidArgument("must not be given more than once", field=name)
            found[name] = value
        return found


def content_type(request: Request) -> str | None:
    """The type of the body, if it is told; `UnsupportedMediaType` for a body that is encoded."""
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise UnsupportedMediaType("a body is taken as it is, not encoded", field="content-encoding")
    return request.header(b"content-type") or None


def json_body(request: Request, decoder: msgspec.json.Decoder[T], shape: str) -> T:
    """A body in JSON; `InvalidArgument` tells the `shape` that it must have."""
    kind = content_type(request)
    if kind is not None and not is_json(kind):
        raise UnsupportedMediaType("must be application/json", field="content-type")
    check_json(request.body, "body")
    try:
        return decoder.decode(request.body)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"must be {shape}: {error}", field="body") from error


def _pairs(query: bytes) -> Iterator[tuple[str, str]]:
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            readable = percent_decode(name, "query")
            yield readable, percent_decode(value, readable[:40])


def integer(text: str, field: str) -> int:
    """A whole number in decimal digits; its range is for the service to judge."""
    if not _INTEGER.match(text):
        raise InvalidArgument("must be an integer in decimal digits, at most 18 of them", field=field)
    return int(text)


def cursor(text: str, field: str) -> int:
    """A cursor that may be given in one of two places, and is judged in both."""
    value = integer(text, field)
    check_offset(value, field)
    return value


def seconds(text: str, field: str) -> float:
    """A number of seconds such as `30` or `0.5`; its range is for the service to judge."""
    if not _DECIMAL.match(text):
        raise InvalidArgument("must be a number of seconds such as 30 or 0.5", field=field)
    return float(text)


def optional(read: Callable[[str, str], T], text: str | None, field: str) -> T | None:
    """What `read` makes of a value, None if it was not given."""
    return None if text is None else read(text, field)


def percent_decode(value: bytes, field: str) -> str:
    """Undo percent-encoding once (RFC 3986, section 2.1); what comes out has to be UTF-8."""
    if _PERCENT_SIGN in value:
        broken = _BAD_PERCENT.search(value)
        if broken is not None:
            raise InvalidArgument(
                f"is badly percent-encoded at byte {broken.start()}: two hexadecimal digits follow '%'", field=field
            )
        value = _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), value)
    return utf8(value, field)


def unquote(value: str, field: str) -> str:
    """The text of a quoted string; what does not begin with a quote stands for itself."""
    if not value.startswith('"'):
        return value
    quoted = _QUOTED.match(value)
    if quoted is None:
        raise InvalidArgument("begins with a quote, but is no quoted string (RFC 9110)", field=field)
    return _ESCAPE.sub(r"\1", quoted[1])


def utf8(value: bytes, field: str | bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        name = field if isinstance(field, str) else field.decode()
        raise InvalidArgument(f"must be UTF-8, byte {error.start} is not", field=name) from error
