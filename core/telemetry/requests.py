"""The request that is being served: what its log lines, its answer and its errors are told apart by."""

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar

#: Under which a request may bring its id, and gets it back.
HEADER = "x-request-id"
#: Ids of others are taken as they are if they are harmless in a header, a log line and a document.
_SANE = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")
#: W3C Trace Context, section 3.2.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class RequestContext:
    """One request. `principal` is who asks, once that is known."""

    __slots__ = ("_headers", "id", "principal")

    def __init__(self, id: str, headers: Iterable[tuple[object, object]]) -> None:
        self.id = id
        self.principal: str | None = None
        self._headers = headers

    def trace(self) -> tuple[str, str] | None:
        """Trace and span that the request belongs to, as its `traceparent` says; looked up when somebody asks."""
        for name, value in self._headers:
            if name in (b"traceparent", "traceparent") and isinstance(value, str | bytes):
                found = _TRACEPARENT.match(_text(value))
                return None if found is None else (found[1], found[2])
        return None


#: The request of the task that asks.
current: ContextVar[RequestContext | None] = ContextVar("trivium_request", default=None)


class RequestIds:
    """Gives ids that nobody else gives: a part made at random for this process, and a number."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._number = 0

    def begin(self, given: object, headers: Iterable[tuple[object, object]]) -> RequestContext:
        """Make a request that of the running task: under the id that it brought if it is sane, else under a new one."""
        if isinstance(given, str | bytes) and _SANE.match(name := _text(given)):
            request = RequestContext(name, headers)
        else:
            self._number += 1
            request = RequestContext(f"{self._prefix}-{self._number}", headers)
        current.set(request)
        return request


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
