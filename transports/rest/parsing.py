"""The bytes of a connection as requests of HTTP/1.1, on llhttp by way of httptools."""

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from core.errors import TooLarge
from transports.rest.chunks import Chunks
from transports.rest.heads import BadRequest, Head, bad_request, read_head, unknown_method

#: Request line and headers; in HTTP/1.1 with what stands between them.
HEADER_BYTES = 32 * 1024
#: Longer heads are not remembered: an idle connection keeps the one before.
_REMEMBERED_BYTES = 2 * 1024
_EMPTY_LINE = b"\r\n\r\n"


class RequestParser:
    """One request after another: its head, then its body, until it is complete; and on with the next.

    httptools can't be halted where a request ends, so it is never fed beyond. That place can be told from outside: a
    head ends with an empty line, a chunked body with its trailers, any other body after its length; and if the parser
    sees another end, the request is refused. What comes behind it stays as it is, so that a client that sends ahead
    makes nobody parse, or hold, what can't be answered yet.

    Most clients send the same head again and again. One that is byte for byte that of the request before means the
    same: it is not parsed again, which is a tenth of a publish and more of a GET, and its `Head` is the same object.
    """

    def __init__(self) -> None:
        #: Whether all of the request is here.
        self.complete = False
        self._parser = HttpRequestParser(self)
        #: What is not used up begins at `_at`; of the head that is there, the parser has seen what is before `_fed`.
        self._data = b""
        self._at = 0
        self._fed = 0
        #: Whether there is anything that is not used up.
        self.has_more = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        #: The head before, and what it means; none if it can't be taken again.
        self._known = b""
        self._known_head: Head | None = None
        #: Whether the parser sees this request, and not only we: it was at the end of one, and stays there.
        self._is_parsed = True
        #: What is missing of a body that is not chunked.
        self._left = 0
        self._chunks: Chunks | None = None

    @property
    def unread(self) -> bytes:
        """What is not used up."""
        return self._data[self._at :]

    def add(self, data: bytes) -> None:
        """Take in what came over the wire."""
        if self.has_more:
            data = self._data[self._at :] + data
            self._fed = max(0, self._fed - self._at)
        self._data = data
        self._at = 0
        self.has_more = bool(data)

    def next(self) -> None:
        """Turn to the next request."""
        self.complete = False
        if self._headers:
            self._headers = []

    def end(self) -> None:
        """There will be no other request; this and the parser of httptools let go of each other."""
        self._parser = None  # type: ignore[assignment]  # nobody feeds it any more

    def read_head(self) -> Head | None:
        """The head of the next request, None if more of it has to come. Raises `BadRequest`."""
        data, at = self._data, self._at
        if not self._fed and self._known_head is not None and data.startswith(self._known, at):
            return self._again(self._known_head, at)
        end = data.find(_EMPTY_LINE, max(at, self._fed - 3)) + 4
        is_whole = end > 3
        if not is_whole:
            end = len(data)
        if end - at > HEADER_BYTES:
            raise BadRequest(TooLarge(f"more than {HEADER_BYTES} bytes", field="headers"), 431)
        begin = max(at, self._fed)
        self._fed = end
        try:
            self._feed(data[begin:end])
        except HttpParserInvalidMethodError:
            self._feed_unknown_method(at, end, is_whole=is_whole)
        return self._head(end) if is_whole else None

    def read_body(self) -> bytes:
        """What is here of the body, or a part of it. Raises `BadRequest`."""
        data, at = self._data, self._at
        if self._chunks is None:
            end = min(at + self._left, len(data))
            self._left -= end - at
            is_whole = not self._left
        else:
            end = self._chunks.past(data, at)
            is_whole = self._chunks.ended
        self._use(end)
        if not self._is_parsed:
            self.complete = is_whole
            return data[at:end]
        self._feed(data[at:end])
        if self.complete != is_whole:
            raise bad_request()
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _again(self, head: Head, at: int) -> Head:
        self._is_parsed = False
        self._left = head.length or 0
        self.complete = not head.length
        self._use(at + len(self._known))
        return head

    def _head(self, end: int) -> Head:
        head = read_head(self._data, self._at, tuple(self._headers))
        self._headers = []  # trailers come in here, and are forgotten
        self._remember(head, end)
        if self.complete and head.length != 0:
            self._frame(head.length)
        self._use(end)
        self._fed = 0
        self._left = head.length or 0
        self._chunks = Chunks() if head.length is None else None
        return head

    def _remember(self, head: Head, end: int) -> None:
        """Keep a head to compare the next one with, but none that announces chunks: the parser has to see their end."""
        can_be_again = end - self._at <= _REMEMBERED_BYTES and head.length is not None and not head.waits
        self._is_parsed = True
        self._known = self._data[self._at : end] if can_be_again else b""
        self._known_head = head if can_be_again else None

    def _frame(self, length: int | None) -> None:
        """Take a body after a request to upgrade, which the parser leaves to the protocol that it does not become."""
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        self._feed(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())
        self._headers = []
        self.complete = False

    def _feed_unknown_method(self, at: int, end: int, *, is_whole: bool) -> None:
        method = unknown_method(self._data, at, end)
        self._parser = HttpRequestParser(self)
        if is_whole:
            try:
                self._feed(b"POST" + self._data[at:end].lstrip(b"\r\n")[len(method) :])
            except HttpParserInvalidMethodError as error:
                raise bad_request() from error
        else:
            self._fed = at  # the parser sees it again when it is whole

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # To be asked for another protocol changes nothing (RFC 9110, section 7.8), but this parser has ended.
            self._parser = HttpRequestParser(self)
        except HttpParserInvalidMethodError:
            raise
        except HttpParserError as error:
            raise bad_request() from error

    def _use(self, end: int) -> None:
        if end < len(self._data):
            self._at = end
        else:
            self.has_more = False
            self._data = b""
            self._at = 0

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
