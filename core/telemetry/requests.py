"""The request that is being served: what its log lines, its answer and its errors are told apart by."""

import os
import re
from collections.abc import Container, Iterable, Mapping
from contextvars import ContextVar

from core.messages import TRACE_ATTRIBUTES

#: Under which a request may bring its id, and gets it back.
HEADER = "x-request-id"
#: Ids of others are taken as they are if they are harmless in a header, a log line and a document.
_SANE = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")
#: W3C Trace Context, section 3.2: zeros are no ids, ff is no version, and later versions may have more fields.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?=-|\Z)")
#: A trace header that is longer is not worth the room it takes.
_TRACE_BYTES = 1024
#: Doors tell headers as bytes or as text.
_NAMES: Mapping[object, str] = {form: name for name in TRACE_ATTRIBUTES for form in (name, name.encode())}


class RequestContext:
    """One request. `principal` is who asks, once that is known; `span` is the trace and span of what we do for it."""

    __slots__ = ("_headers", "_trace", "id", "principal", "span")

    def __init__(self, id: str, headers: Iterable[tuple[object, object]]) -> None:
        self.id = id
        self.principal: str | None = None
        self.span: tuple[str, str] | None = None
        self._headers = headers
        self._trace: Mapping[str, str] | None = None

    def trace_attributes(self) -> Mapping[str, str]:
        """`traceparent`, `tracestate` and `baggage` of its headers. What is odd is left out: it must not fail anything.

        Looked up when somebody asks.
        """
        if self._trace is None:
            self._trace = _trace_of(self._headers)
        return self._trace

    def trace(self) -> tuple[str, str] | None:
        """Trace and span that it belongs to: ours, or else those that it came with."""
        if self.span is not None:
            return self.span
        found = TRACEPARENT.match(self.trace_attributes().get("traceparent", ""))
        return None if found is None else (found[1], found[2])


#: The request of the task that asks.
current: ContextVar[RequestContext | None] = ContextVar("trivium_request", default=None)


class RequestIds:
    """Gives ids that nobody else gives: a part made at random for this process, and a number."""

    def __init__(self) -> None:
        self._prefix = f"{os.urandom(8).hex()}-"
        self._number = 0

    def begin(self, given: object, headers: Iterable[tuple[object, object]]) -> RequestContext:
        """Make a request that of the running task: under the id that it brought if it is sane, else under a new one."""
        name = None if given is None else _text(given)
        if name is None or not _SANE.match(name):
            self._number += 1
            name = self._prefix + str(self._number)
        request = RequestContext(name, headers)
        current.set(request)
        return request


def brings_trace(fields: Container[bytes]) -> bool:
    """Whether headers of these names may bring a trace or baggage; `tracestate` is of no use alone."""
    return b"traceparent" in fields or b"baggage" in fields


def _trace_of(headers: Iterable[tuple[object, object]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    if not headers:
        return found
    for header, value in headers:
        name = _NAMES.get(header)
        if name is not None and (text := _text(value)) is not None and text.isascii() and text.isprintable():
            found[name] = f"{found[name]},{text}" if name in found else text  # lists: W3C allows several headers
    if TRACEPARENT.match(found.get("traceparent", "")) is None:
        found.pop("traceparent", None)
        found.pop("tracestate", None)  # of no use alone, section 3.3
    return {name: text for name, text in found.items() if 0 < len(text) <= _TRACE_BYTES}


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None
