"""The bytes of responses in HTTP/1.1."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from time import time

from core.errors import TriviumError
from transports.documents import PROBLEM, problem_document

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
#: RFC 9110, sections 15.3.5 and 15.4.5.
BODILESS = frozenset((204, 304))
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Dates:
    """The date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


def response_head(
    status: int, headers: Iterable[tuple[bytes, bytes]], date: bytes, *, closes: bool, may_chunk: bool
) -> tuple[bytes, bool, bool]:
    """The head, whether the body has to be chunked, and whether the connection has to close for the body to end.

    `ValueError` if a header holds a line end: it would be read as another header, or as another response.
    """
    pieces = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date]
    lines = 3
    framed = status in BODILESS
    for name, value in headers:
        pieces += (name, b": ", value, b"\r\n")
        lines += 1
        framed = framed or name == b"content-length"
    chunked = not framed and may_chunk
    if chunked:
        pieces.append(b"transfer-encoding: chunked\r\n")
        lines += 1
    elif not framed:
        closes = True
    if closes:
        pieces.append(b"connection: close\r\n")
        lines += 1
    pieces.append(b"\r\n")
    head = b"".join(pieces)
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise ValueError("a header of the response holds a line end")
    return head, chunked, closes


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(error: TriviumError, status: int, date: bytes) -> bytes:
    """The answer to what is no request, or may not become one; after it the connection closes."""
    body = problem_document(error, status=status)
    headers = [(b"content-type", PROBLEM.encode()), (b"content-length", b"%d" % len(body))]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % ceil(error.retry_after)))
    head, _, _ = response_head(status, headers, date, closes=True, may_chunk=False)
    return head + body
