"""Spans by OpenTelemetry: what decides about them, what one is while it lasts, and how it is exported.

Imported only where traces are exported.
"""

import asyncio
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from core import VERSION
from core.errors import TriviumError
from core.messages import Message
from core.stores.groups import Unit
from core.telemetry.requests import TRACEPARENT

#: What is not exported by then is lost: a collector that is away must not hold up the end.
_FLUSH_SECONDS = 5.0
#: Traces of a group beyond these are not linked to its commit.
_LINKS = 128
#: Of a trace's flags. Trace Context level 2, section 3.2.2.5: the ids that we give are random.
_SAMPLED, _RANDOM = 1, 2


class Span:
    """A span while it lasts: as little as it takes, since the loop makes one now and then, with cold caches.

    `error` is its type and what it says.
    """

    __slots__ = ("attributes", "begun", "context", "ended", "error", "kind", "links", "name", "parent")

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        links: Sequence[SpanContext],
    ) -> None:
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.attributes = attributes
        self.links = links
        self.begun = self.ended = time.time_ns()
        self.error: tuple[str, str] | None = None

    @property
    def ids(self) -> tuple[str, str]:
        """Of its trace and its own, as W3C writes them."""
        return f"{self.context.trace_id:032x}", f"{self.context.span_id:016x}"

    def carried(self) -> dict[str, str]:
        """The attributes of a message that belongs to it."""
        trace, own = self.ids
        found = {"traceparent": f"00-{trace}-{own}-{self.context.trace_flags:02x}"}
        if self.context.trace_state:
            found["tracestate"] = self.context.trace_state.to_header()
        return found


class _Exporter(SpanExporter):
    """Makes OpenTelemetry's spans of ours on the thread that exports, many at a time, and hands them on."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._resource = Resource.create({"service.name": "trivium", "service.version": VERSION}).merge(_named())
        self._limits = SpanLimits()  # of OpenTelemetry's variables
        self._scope = InstrumentationScope("trivium", VERSION)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return self._exporter.export([self._made(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def _made(self, span: Span) -> ReadableSpan:
        status = Status(StatusCode.UNSET)
        if span.error is not None:
            span.attributes["error.type"], text = span.error
            status = Status(StatusCode.ERROR, text)
        limits = self._limits
        return ReadableSpan(
            span.name,
            span.context,
            span.parent,
            self._resource,
            BoundedAttributes(
                limits.max_span_attributes, span.attributes, max_value_len=limits.max_span_attribute_length
            ),
            links=[Link(context) for context in span.links[: limits.max_links]],
            kind=span.kind,
            status=status,
            start_time=span.begun,
            end_time=span.ended,
            instrumentation_scope=self._scope,
        )


class Tracing:
    """Makes spans, and exports them from entering until leaving."""

    def __init__(self, rate: float | None) -> None:
        """As OpenTelemetry's variables say: where to, how many (`OTEL_TRACES_SAMPLER`), under which name.

        `rate` is the share of traces that begin here, while others decide about theirs. Without one the sampler
        is asked, which costs microseconds for every message.
        """
        self._rate = rate
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler = provider.sampler
        self._ids = provider.id_generator

    async def __aenter__(self) -> Self:
        self._processor = BatchSpanProcessor(_Exporter(OTLPSpanExporter()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Export what is left, for a bounded time."""
        flushing = threading.Thread(target=self._processor.shutdown, name="trivium-spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH_SECONDS)

    def takes(self, parent: re.Match[str] | None) -> bool:
        """Whether a span under what `traceparent` names, or the first of a trace, may be recorded."""
        if self._rate is None:
            return True
        return random.random() < self._rate if parent is None else _is_sampled(parent)  # noqa: S311 - a sample

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        links: Sequence[SpanContext] = (),
    ) -> Span | None:
        """A span that begins now, if the sampler wants it; `takes` was asked before."""
        if parent is None:
            trace, flags, state = self._ids.generate_trace_id(), _SAMPLED | _RANDOM, None
        else:
            trace, flags, state = parent.trace_id, parent.trace_flags & _RANDOM | _SAMPLED, parent.trace_state
        if self._rate is None:
            around = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
            result = self._sampler.should_sample(around, trace, name, kind, attributes, ())
            if result.decision is not Decision.RECORD_AND_SAMPLE:
                return None
        context = SpanContext(trace, self._ids.generate_span_id(), False, TraceFlags(flags), state)
        return Span(name, kind, context, parent, attributes, links)

    def end(self, span: Span, error: BaseException | None = None) -> None:
        """It ends now, with this error if there is one."""
        span.ended = time.time_ns()
        if error is not None:  # not kept itself: its traceback holds on to all that was at work
            span.error = error.code if isinstance(error, TriviumError) else type(error).__name__, str(error)
        self._processor.on_end(span)  # type: ignore[arg-type]  # which only keeps it for the exporter

    def committed(self, units: Sequence[Unit], seconds: float, error: TriviumError | None) -> None:
        """A group was committed: a span in the first trace of it, linked to the others."""
        contexts = [
            context
            for unit in units
            for message in unit.messages
            if "traceparent" in message.attributes and (context := sampled_of(message))
        ]
        if not contexts:
            return
        attributes = {
            "messaging.batch.message_count": sum(len(unit.stored.messages) for unit in units if unit.stored is not None)
        }
        links = contexts[1 : _LINKS + 1]
        if (span := self.begin("commit", SpanKind.INTERNAL, contexts[0], attributes, links)) is not None:
            span.begun -= int(seconds * 1e9)
            self.end(span, error)


def remote(attributes: Mapping[str, str]) -> SpanContext | None:
    """The span that W3C's attributes name (Trace Context, section 3.2)."""
    if (found := parent_in(attributes)) is None:
        return None
    state = TraceState.from_header([attributes["tracestate"]]) if "tracestate" in attributes else None
    return SpanContext(int(found[1], 16), int(found[2], 16), True, TraceFlags(int(found[3], 16)), state)


def sampled_of(message: Message) -> SpanContext | None:
    """The span that a message carries, if its trace is one of those that are recorded."""
    found = parent_in(message.attributes)
    return remote(message.attributes) if found is not None and _is_sampled(found) else None


def parent_in(attributes: Mapping[str, str]) -> re.Match[str] | None:
    given = attributes.get("traceparent")
    return None if given is None else TRACEPARENT.match(given)


def _is_sampled(parent: re.Match[str]) -> bool:
    return bool(int(parent[3], 16) & _SAMPLED)


def _named() -> Resource:
    """`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` beat what we say of ourselves."""
    given = Resource.create()
    own = {name: value for name, value in given.attributes.items() if not str(value).startswith("unknown_service")}
    return Resource(own)
