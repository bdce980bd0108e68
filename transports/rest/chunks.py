"""Where a chunked body ends (RFC 9112, section 7.1)."""

import re

from core.errors import TooLarge
from transports.rest.heads import BadRequest, bad_request

#: What may come beside the data: extensions and trailers, which nobody here wants. Go's bound.
_FRAMING_BYTES = 16 * 1024
#: Each byte of data makes up for so many, so that chunks may be as short as a byte.
_FRAMING_FOR_A_BYTE = 5
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:;[^\n]*)?\r\n")
_EMPTY_LINE = b"\r\n\r\n"


class Chunks:
    """Measures one chunked body as it arrives; its data is skipped, whatever it holds.

    It only tells how far a parser may be fed. That parser judges the same bytes more closely, and where it sees another
    end the request is refused.
    """

    def __init__(self) -> None:
        #: Whether all of the body was here.
        self.ended = False
        #: Of the current chunk, with the line end behind its data.
        self._missing = 0
        #: What has to be looked at again with what comes next: the beginning of a size line, or of the last empty line.
        self._begun = b""
        self._has_trailers = False
        self._framing = 0

    def past(self, data: bytes, at: int) -> int:
        """Where in `data`, from `at` on, the body ends, or the data. Raises `BadRequest`."""
        begun = self._begun
        if not begun:
            return self._past_chunks(data, at, 0)
        self._begun = b""
        return at - len(begun) + self._past_chunks(begun + data[at:], 0, len(begun))

    def _past_chunks(self, data: bytes, at: int, seen: int) -> int:
        """As `past`; the first `seen` bytes were there before."""
        at += self._missing
        while not self._has_trailers:
            if at >= len(data):
                self._missing = at - len(data)
                return len(data)
            line = _SIZE_LINE.match(data, at)
            if line is None:
                return self._past_half_a_line(data, at)
            end = line.end()
            size = int(line[1], 16)
            self._frame(end - at + 2 - _FRAMING_FOR_A_BYTE * size)
            if size:
                at = end + size + 2
            else:
                self._has_trailers = True
                at, seen = end - 2, 2
        self._missing = 0
        return self._past_trailers(data, at, seen)

    def _past_half_a_line(self, data: bytes, at: int) -> int:
        if data.find(b"\n", at) >= 0:
            raise bad_request()
        self._begun = data[at:]
        self._missing = 0
        if self._framing + len(self._begun) > _FRAMING_BYTES:
            raise _too_much()
        return len(data)

    def _past_trailers(self, data: bytes, at: int, seen: int) -> int:
        end = data.find(_EMPTY_LINE, at) + 4
        self.ended = end > 3
        if not self.ended:
            end = len(data)
            self._begun = data[max(at, end - 3) :]
        self._frame(end - at - seen)
        return end

    def _frame(self, size: int) -> None:
        self._framing = max(0, self._framing + size)
        if self._framing > _FRAMING_BYTES:
            raise _too_much()


def _too_much() -> BadRequest:
    return BadRequest(TooLarge(f"more than {_FRAMING_BYTES} bytes of extensions or trailers", field="body"), 413)
