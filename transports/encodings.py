"""Stored messages as they look on a wire, encoded once for all who read them there."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from core.messages import StoredMessage

#: What an encoded message costs beside its bytes.
_ENTRY_BYTES = 250
#: Messages that are kept as one.
_RUN = 16

#: Topic and offset of a message, or topic, first and last offset of a run.
_Place: TypeAlias = tuple[str, int] | tuple[str, int, int]


class Encodings:
    """What `encode` makes of the messages that were asked for last.

    A thousand followers of one topic get the same messages. Where the log is these never change, so nothing kept is
    ever stale. An edge keeps nothing, with 0 for `max_bytes`: the log of its core may be replaced, by a backup or an
    empty one, and then has others at the same places. The older half leaves when `max_bytes` would be passed: one by
    one would cost nearly as much as to encode them, since the first entry of a dict that lost many is slow to find.
    """

    def __init__(self, encode: Callable[[StoredMessage], bytes], max_bytes: int) -> None:
        self._encode = encode
        self._half = max_bytes // 2
        self._newer: dict[_Place, bytes] = {}
        self._older: dict[_Place, bytes] = {}
        self._newer_bytes = self._older_bytes = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self._newer_bytes + self._older_bytes

    def of(self, stored: StoredMessage) -> bytes:
        place = (stored.topic, stored.offset)
        encoded = self._newer.get(place) or self._older.get(place)
        if encoded is None:
            encoded = self._encode(stored)
            self._keep(place, encoded)
        return encoded

    def _keep(self, place: _Place, encoded: bytes) -> None:
        size = len(encoded) + _ENTRY_BYTES
        if size > self._half:
            return
        if self._newer_bytes + size > self._half:
            self._older, self._older_bytes = self._newer, self._newer_bytes
            self._newer, self._newer_bytes = {}, 0
        self._newer[place] = encoded
        self._newer_bytes += size


class RunEncodings(Encodings):
    """Encodings of which several in a row are those of the messages together.

    Whoever catches up gets long pages, which mostly nobody else does: to keep each of their messages would cost nearly
    as much as to encode it. So a page's messages are kept by runs that begin at every 16th offset, the same ones
    wherever pages are cut, and one by one only before the first and behind the last of them. A message may be encoded
    twice for all who read it: within its run, and alone.
    """

    def __init__(self, encode: Callable[[Sequence[StoredMessage]], bytes], max_bytes: int) -> None:
        super().__init__(lambda stored: encode((stored,)), max_bytes)
        self._encode_run = encode

    def all(self, messages: Sequence[StoredMessage]) -> list[bytes]:
        """The encodings of messages in order, in pieces to be joined."""
        found: list[bytes] = []
        at = 0
        while at < len(messages):
            run = messages[at : at + _RUN]
            first = run[0].offset
            if first % _RUN == 0 and len(run) == _RUN and run[-1].offset == first + _RUN - 1:
                found.append(self._of_run(run))
                at += _RUN
            else:
                found.append(self.of(run[0]))
                at += 1
        return found

    def _of_run(self, run: Sequence[StoredMessage]) -> bytes:
        place = (run[0].topic, run[0].offset, run[-1].offset)
        encoded = self._newer.get(place) or self._older.get(place)
        if encoded is None:
            encoded = self._encode_run(run)
            self._keep(place, encoded)
        return encoded
