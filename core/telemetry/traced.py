"""Spans of what happens to a message, in the names of OpenTelemetry's semantic conventions for messaging.

Imported only where traces are exported. A message that belongs to a sampled trace carries its context, so everything
after its publishing looks at the message alone, and costs nothing for the others.
"""

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from opentelemetry.trace import SpanKind

from core.errors import TriviumError
from core.limits import Limits
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.ports import BrokerPublisher, MessageService
from core.telemetry.propagation import carries_trace, with_trace
from core.telemetry.requests import current
from core.telemetry.spans import Span, Tracing, parent_in, remote, sampled_of

#: What a publish is called, its kind, and whose message it is.
_INBOX = ("process", SpanKind.CONSUMER, "rabbitmq")
_REQUEST = ("publish", SpanKind.SERVER, "trivium")


class TracedService:
    """A `MessageService` that makes a span of each publish, and of each message that a follower gets."""

    def __init__(self, service: MessageService, tracing: Tracing, limits: Limits) -> None:
        self._service = service
        self._tracing = tracing
        self._limits = limits

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        request = current.get()
        came_with = request.trace_attributes() if request is not None else {}
        first = messages[0].attributes if messages else {}
        if not self._tracing.takes(parent_in(came_with) or parent_in(first)):
            return self._service.publish(topic, messages)
        # the inbox alone serves no request: it processes what RabbitMQ delivered
        name, kind, system = _INBOX if request is None else _REQUEST
        parent = remote(came_with) or remote(first)
        span = self._tracing.begin(f"{name} {topic}", kind, parent, _described(name, system, topic, messages))
        if span is None:
            return self._service.publish(topic, messages)
        if request is not None:
            request.span = span.ids
        try:
            future = self._service.publish(topic, self._carrying(messages, span, came_with))
        except TriviumError as error:
            self._tracing.end(span, error)
            raise
        future.add_done_callback(lambda done: self._tracing.end(span, _failure(done)))
        return future

    def _carrying(self, messages: Sequence[Message], span: Span, came_with: Mapping[str, str]) -> Sequence[Message]:
        """What comes later to a message belongs to this span, unless the message brought a trace of its own."""
        ours = {**came_with, **span.carried()}
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
                error: BaseException | None = asyncio.CancelledError()
                try:
                    yield page
                    error = None
                finally:  # a follower that went away while it was written to
                    for span in spans:
                        self._tracing.end(span, error)

    def _delivered(self, messages: Sequence[StoredMessage]) -> Iterator[Span]:
        for stored in messages:
            if (parent := sampled_of(stored.message)) is not None:
                attributes = _described("deliver", "trivium", stored.topic, (stored.message,))
                attributes["messaging.trivium.message.offset"] = stored.offset
                span = self._tracing.begin(f"deliver {stored.topic}", SpanKind.PRODUCER, parent, attributes)
                if span is not None:
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
        if (parent := sampled_of(stored.message)) is None:
            return self._publisher.publish(stored)
        attributes = _described("relay", "rabbitmq", stored.topic, (stored.message,))
        span = self._tracing.begin(f"relay {stored.topic}", SpanKind.PRODUCER, parent, attributes)
        if span is None:
            return self._publisher.publish(stored)
        message = with_trace(stored.message, span.carried(), self._limits)
        future = self._publisher.publish(msgspec.structs.replace(stored, message=message))
        future.add_done_callback(lambda done: self._tracing.end(span, _failure(done)))
        return future


#: Of the messaging conventions, by the name of the operation.
_TYPES = {"publish": "send", "relay": "send", "process": "process", "deliver": "send"}


def _described(name: str, system: str, topic: str, messages: Sequence[Message]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "messaging.system": system,
        "messaging.operation.name": name,
        "messaging.operation.type": _TYPES[name],
        "messaging.destination.name": topic,
    }
    if len(messages) == 1:
        found["messaging.message.id"] = messages[0].id
        found["messaging.message.body.size"] = len(messages[0].data)
    else:
        found["messaging.batch.message_count"] = len(messages)
    return found


def _failure(done: Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()
