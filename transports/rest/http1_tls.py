"""The connections that speak HTTP/1.1 over TLS."""

from collections import deque

from transports.rest.http1 import Http1, Site
from transports.rest.presence import ClientGone

_PIECE_BYTES = 64 * 1024


class Http1OverTls(Http1):
    """One connection, which hands over as much of an answer as its client takes.

    TLS encrypts all that it is given at once, whatever the client takes of it. It asks to pause only after that, if
    at all, and keeps the room that it took as long as the connection.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._unsent: deque[memoryview] = deque()

    def write(self, *data: bytes) -> None:
        if not self._unsent and sum(map(len, data)) <= _PIECE_BYTES:
            super().write(*data)
            return
        if self._is_lost or self.is_closing:
            raise ClientGone
        for part in data:
            whole = memoryview(part)
            self._unsent += [whole[at : at + _PIECE_BYTES] for at in range(0, len(part), _PIECE_BYTES)]
        self._send()

    def resume_writing(self) -> None:
        self.is_stuck = False
        self._send()
        if not self.is_stuck:
            self._wake_writers()

    def _send(self) -> None:
        while self._unsent and not self.is_stuck:
            self._transport.write(self._unsent.popleft())
