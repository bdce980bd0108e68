"""What the head of a request means (RFC 9112), where it says more than one thing or none it is refused.

Proxies in front may read a sloppy head in another way, and smuggle a request past their rules. llhttp, under httptools,
refuses bare line ends, folded lines, control characters, names that are no tokens, lengths that are no numbers or given
twice, and lengths beside a transfer encoding. What it lets pass is refused here.
"""

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from core.errors import InvalidArgument, TriviumError

Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#: Section 3; an empty line before it is forgiven, as section 2.2 asks. llhttp takes more spaces and other protocols.
_REQUEST_LINE = re.compile(rb"(?:\r\n)?(%b) ([!-~]+) HTTP/1\.([01])\r\n" % _TOKEN)
#: Sections 3.2.1, 3.2.2 and 3.2.4. A fragment is no part of any of them.
_TARGET = re.compile(rb"(?:/|https?://)[^#]*|\*", re.IGNORECASE)
#: `uri-host [ ":" port ]` of RFC 3986, section 3.2.2, which may be empty.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
#: A method in what may be only the beginning of a head.
_METHOD = re.compile(rb"(?:\r\n)?(%b)(?= |\Z)" % _TOKEN)
_TELLING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"proxy-connection", b"expect"))


class BadRequest(Exception):
    """The bytes are no request that could be answered in its own right; the connection is lost with it."""

    def __init__(self, error: TriviumError, status: int = 400) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


class Head(Struct):
    """The head of a request, and how its body is framed."""

    method: str
    target: bytes
    version: str
    headers: Headers
    #: The length that is declared; None for a chunked body.
    length: int | None = 0
    keeps_alive: bool = True
    #: Whether the client waits to be told to send the body.
    waits: bool = False
    #: What it says in the words of ASGI, once that was asked for; whoever keeps the head keeps this too.
    scope: dict[str, Any] | None = None


def bad_request(reason: str = "is not HTTP as RFC 9112 has it", field: str = "request") -> BadRequest:
    return BadRequest(InvalidArgument(reason, field=field))


def read_head(line: bytes, at: int, headers: Headers) -> Head:
    """The head whose request line begins in `line` at `at`, and whose headers llhttp took. Raises `BadRequest`."""
    match = _REQUEST_LINE.match(line, at)
    if match is None:
        raise bad_request()
    method, target, minor = match.groups()
    if not _TARGET.fullmatch(target):
        raise bad_request("is none that a server for itself can have (RFC 9112, section 3.2)", "target")
    is_old = minor == b"0"
    head = Head(method.decode(), target, "1.0" if is_old else "1.1", headers, keeps_alive=not is_old)
    hosts = 0
    for name, value in headers:
        if name in _TELLING:
            if name == b"host":
                hosts += 1
                if not _HOST.fullmatch(value):
                    raise bad_request("is no host (RFC 9112, section 3.2)", "host")
            else:
                _take(head, name, value.lower())
    if hosts > 1 or not (hosts or is_old):
        raise bad_request("must be given once (RFC 9112, section 3.2)", "host")
    return head


def unknown_method(data: bytes, at: int, end: int) -> bytes:
    """The method that begins at `at`: llhttp has a list of them, but any token is one. Raises `BadRequest`."""
    match = _METHOD.match(data, at, end)
    if match is None:
        raise bad_request()
    return match[1]


def _take(head: Head, name: bytes, value: bytes) -> None:
    if name == b"content-length":
        head.length = int(value)  # llhttp let only digits pass
    elif name == b"transfer-encoding":
        if value != b"chunked" or head.version == "1.0":  # section 6.1: no other coding is known here
            raise bad_request("may only be chunked, and only in HTTP/1.1", "transfer-encoding")
        head.length = None
    elif name in (b"connection", b"proxy-connection"):  # they are one to llhttp
        if b"close" in [option.strip() for option in value.split(b",")]:
            head.keeps_alive = False
    elif value == b"100-continue" and head.version == "1.1":
        head.waits = True
