"""Stored messages as they look on a wire, encoded once for all who read them there."""

from collections.abc import Callable

from core.messages import StoredMessage

#: What an encoded message costs beside its bytes.
_ENTRY_BYTES = 250


class Encodings:
    """What `encode` makes of the messages that were asked for last.

    A thousand followers of one topic get the same messages. These never change, so nothing kept is ever stale. The
    older half leaves when `max_bytes` would be passed: one by one would cost nearly as much as to encode them, since
    the first entry of a dict that lost many is slow to find.
    """

    def __init__(self, encode: Callable[[StoredMessage], bytes], max_bytes: int) -> None:
        self._encode = encode
        self._half = max_bytes // 2
        self._newer: dict[tuple[str, int], bytes] = {}
        self._older: dict[tuple[str, int], bytes] = {}
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

    def _keep(self, place: tuple[str, int], encoded: bytes) -> None:
        size = len(encoded) + _ENTRY_BYTES
        if size > self._half:
            return
        if self._newer_bytes + size > self._half:
            self._older, self._older_bytes = self._newer, self._newer_bytes
            self._newer, self._newer_bytes = {}, 0
        self._newer[place] = encoded
        self._newer_bytes += size
