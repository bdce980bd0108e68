"""Spans of what happens to a message, by OpenTelemetry and its semantic conventions for messaging.

Imported only where traces are exported. A message that belongs to a sampled trace carries its context, so everything
after its publishing looks at the message alone, and costs nothing for the others.
"""

import asyncio
import random
import threading
import time
from asyncio import Future
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
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
from core.limits import Limits
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.ports import BrokerPublisher, MessageService
from core.stores.groups import Unit
from core.telemetry.propagation import carries_trace, with_trace
from core.telemetry.requests import TRACEPARENT, current

#: What is not exported by then is lost: a collector that is away must not hold up the end.
_FLUSH_SECONDS = 5.0
#: Traces of a group beyond these are not linked to its commit.
_LINKS = 128
_NOTHING = Context()
#: What a publish is called, its kind, and whose message it is.
_INBOX = ("process", SpanKind.CONSUMER, "rabbitmq")
_REQUEST = ("publish", SpanKind.SERVER, "trivium")


class Tracing:
    """Makes spans, and exports them from entering until leaving."""

    def __init__(
        self, provider: TracerProvider, processor: Callable[[], SpanProcessor], rate: float | None = None
    ) -> None:
        """`processor` makes what exports spans, when it is entered; `rate` is the share of traces that begin here.

        Without a rate the provider's sampler decides. Asking it costs 4 us for every message that is not recorded.
        """
        self._rate = rate
        self._provider = provider
        self._processor = processor
        self._tracer = provider.get_tracer("trivium", VERSION)

    @classmethod
    def exporting(cls, rate: float | None) -> Self:
        """As OpenTelemetry's variables say: where to, how many (`OTEL_TRACES_SAMPLER`), under which name."""
        sampler = None if rate is None else ParentBased(ALWAYS_ON)
        resource = Resource.create({"service.name": "trivium", "service.version": VERSION}).merge(_named())
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        return cls(provider, lambda: BatchSpanProcessor(OTLPSpanExporter()), rate)

    async def __aenter__(self) -> Self:
        self._provider.add_span_processor(self._processor())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Export what is left, for a bounded time."""
        flushing = threading.Thread(target=self._provider.shutdown, name="trivium-spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH_SECONDS)

    def takes(self, parent: SpanContext | None) -> bool:
        """Whether a span under `parent`, or the first of a trace, may be recorded."""
        if self._rate is None:
            return True
        return random.random() < self._rate if parent is None else parent.trace_flags.sampled  # noqa: S311 - a sample

    def start(self, name: str, topic: str, kind: SpanKind, parent: SpanContext | None) -> Span:
        context = _NOTHING if parent is None else set_span_in_context(NonRecordingSpan(parent), _NOTHING)
        return self._tracer.start_span(f"{name} {topic}", context=context, kind=kind)

    def committed(self, units: Sequence[Unit], seconds: float, error: TriviumError | None) -> None:
        """A group was committed: a span in the first trace of it, linked to the others."""
        contexts = [context for unit in units for message in unit.messages if (context := sampled_of(message))]
        if not contexts:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            "commit",
            context=set_span_in_context(NonRecordingSpan(contexts[0]), _NOTHING),
            links=[Link(context) for context in contexts[1 : _LINKS + 1]],
            start_time=now - int(seconds * 1e9),
            attributes={"messaging.batch.message_count": sum(len(unit.stored) for unit in units)},
        )
        _end(span, error, now)


class TracedService:
    """A `MessageService` that makes a span of each publish, and of each message that a follower gets."""

    def __init__(self, service: MessageService, tracing: Tracing, limits: Limits) -> None:
        self._service = service
        self._tracing = tracing
        self._limits = limits

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        request = current.get()
        came_with = request.trace_attributes() if request is not None else {}
        parent = remote(came_with) or (remote(messages[0].attributes) if messages else None)
        if not self._tracing.takes(parent):
            return self._service.publish(topic, messages)
        # the inbox alone serves no request: it processes what RabbitMQ delivered
        name, kind, system = _INBOX if request is None else _REQUEST
        span = self._tracing.start(name, topic, kind, parent)
        if not span.is_recording():
            return self._service.publish(topic, messages)
        if request is not None:
            request.span = _ids(span)
        _describe(span, name, system, topic, messages)
        try:
            future = self._service.publish(topic, self._carrying(messages, span, came_with))
        except TriviumError as error:
            _end(span, error)
            raise
        future.add_done_callback(lambda done: _end(span, _failure(done)))
        return future

    def _carrying(self, messages: Sequence[Message], span: Span, came_with: Mapping[str, str]) -> Sequence[Message]:
        """What comes later to a message belongs to this span, unless the message brought a trace of its own."""
        ours = {**came_with, **_attributes(span)}
        lent = came_with.get("traceparent")
        return [
            with_trace(message, ours, self._limits)
            if not carries_trace(message) or message.attributes.get("traceparent") == lent
            else message
            for message in messages
        ]

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        async with aclosing(self._service.follow(topic, after)) as pages:
            async for page in pages:
                spans = list(self._delivered(page.messages))
                yield page
                for span in spans:
                    span.end()

    def _delivered(self, messages: Sequence[StoredMessage]) -> Iterator[Span]:
        for stored in messages:
            if (parent := sampled_of(stored.message)) is not None:
                span = self._tracing.start("deliver", stored.topic, SpanKind.PRODUCER, parent)
                _describe(span, "deliver", "trivium", stored.topic, (stored.message,))
                span.set_attribute("messaging.trivium.message.offset", stored.offset)
                yield span

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        return await self._service.get_data(topic)

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return await self._service.get_message(topic, offset)

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        return await self._service.read_messages(topic, after=after, limit=limit, wait=wait)

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        return await self._service.list_topics(after=after, limit=limit)


class TracedPublisher:
    """A `BrokerPublisher` that makes a span of each message until its confirm, and sends its context along."""

    def __init__(self, publisher: BrokerPublisher, tracing: Tracing, limits: Limits) -> None:
        self._publisher = publisher
        self._tracing = tracing
        self._limits = limits

    async def ready(self) -> None:
        await self._publisher.ready()

    def publish(self, stored: StoredMessage) -> Future[None]:
        parent = sampled_of(stored.message)
        if parent is None:
            return self._publisher.publish(stored)
        span = self._tracing.start("relay", stored.topic, SpanKind.PRODUCER, parent)
        _describe(span, "relay", "rabbitmq", stored.topic, (stored.message,))
        message = with_trace(stored.message, _attributes(span), self._limits)
        future = self._publisher.publish(msgspec.structs.replace(stored, message=message))
        future.add_done_callback(lambda done: _end(span, _failure(done)))
        return future


def remote(attributes: Mapping[str, str]) -> SpanContext | None:
    """The span that W3C's attributes name (Trace Context, section 3.2)."""
    if "traceparent" not in attributes or (found := TRACEPARENT.match(attributes["traceparent"])) is None:
        return None
    state = TraceState.from_header([attributes["tracestate"]]) if "tracestate" in attributes else None
    context = SpanContext(int(found[1], 16), int(found[2], 16), True, TraceFlags(int(found[3], 16)), state)
    return context if context.is_valid else None


def sampled_of(message: Message) -> SpanContext | None:
    """The span that a message carries, if its trace is one of those that are recorded."""
    context = remote(message.attributes)
    return context if context is not None and context.trace_flags.sampled else None


def _named() -> Resource:
    """`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` beat what we say of ourselves."""
    given = Resource.create()
    own = {name: value for name, value in given.attributes.items() if not str(value).startswith("unknown_service")}
    return Resource(own)


def _ids(span: Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _attributes(span: Span) -> dict[str, str]:
    trace, own = _ids(span)
    context = span.get_span_context()
    found = {"traceparent": f"00-{trace}-{own}-{context.trace_flags:02x}"}
    if context.trace_state:
        found["tracestate"] = context.trace_state.to_header()
    return found


#: Of the messaging conventions, by the name of the operation.
_TYPES = {"publish": "send", "relay": "send", "process": "process", "deliver": "send"}


def _describe(span: Span, name: str, system: str, topic: str, messages: Sequence[Message]) -> None:
    span.set_attributes(
        {
            "messaging.system": system,
            "messaging.operation.name": name,
            "messaging.operation.type": _TYPES[name],
            "messaging.destination.name": topic,
        }
    )
    if len(messages) == 1:
        span.set_attribute("messaging.message.id", messages[0].id)
        span.set_attribute("messaging.message.body.size", len(messages[0].data))
    else:
        span.set_attribute("messaging.batch.message_count", len(messages))


def _failure(done: Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _end(span: Span, error: BaseException | None, end_time: int | None = None) -> None:
    if error is not None:
        span.set_attribute("error.type", error.code if isinstance(error, TriviumError) else type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end(end_time)
