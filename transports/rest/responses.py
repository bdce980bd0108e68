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
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
#: As numbers: to look for bytes in bytes, CPython makes and drops an error first, which is nine times as dear.
LF, CR = b"\n\r"
_END = b"\r\n\r\n"
_CLOSE = b"\r\nconnection: close" + _END


class Dates:
    """The date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}".encode()
        return self._line


def response_head(
    status: int, headers: Iterable[tuple[bytes, bytes]], date: bytes, *, closes: bool, may_chunk: bool
) -> tuple[bytes, bool, bool]:
    """The head, whether the body has to be chunked, and whether the connection has to close for the body to end.

    `ValueError` if a header holds a line end: it would be read as another header, or as another response.
    """
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, date, *map(b": ".join, headers)]
    told = b"".join(lines)
    if LF in told or CR in told:
        raise ValueError("a header of the response holds a line end")
    head = b"\r\n".join(lines)
    framed = status in BODILESS or head.find(b"\r\ncontent-length: ") > 0
    chunked = not framed and may_chunk
    closes = closes or not (framed or chunked)
    if chunked:
        head += b"\r\ntransfer-encoding: chunked"
    return head + (_CLOSE if closes else _END), chunked, closes


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(error: TriviumError, status: int, date: bytes, *, bodiless: bool) -> bytes:
    """The answer to what is no request, or may not become one; after it the connection closes."""
    body = problem_document(error, status=status)
    headers = [(b"content-type", PROBLEM.encode()), (b"content-length", b"%d" % len(body))]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % ceil(error.retry_after)))
    head, _, _ = response_head(status, headers, date, closes=True, may_chunk=False)
    return head if bodiless else head + body
