"""The JSON documents that the REST door and the AMQP RPC answer with."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Raw

from core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PermissionDenied,
    TooLarge,
    TriviumError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from core.messages import Greeting, Page, Published, StoredMessage, TopicPage
from core.service import PAGE_BYTES
from transports.cloudevents import encode_event, event_of

_encode = msgspec.json.Encoder().encode

#: RFC 9457 tells the HTTP status in the document, so it is the same where no HTTP is spoken.
STATUS: Mapping[type[TriviumError], HTTPStatus] = {
    InvalidArgument: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    PermissionDenied: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    Internal: HTTPStatus.INTERNAL_SERVER_ERROR,
}
PROBLEM = "application/problem+json"


def data_document(answer: StoredMessage | Greeting) -> bytes:
    """`get data`: data that is UTF-8 text as a string, other data in base64 with `encoding` beside it."""
    if isinstance(answer, Greeting):
        return _encode({"message": answer.text, "topic": answer.topic, "offset": 0})
    message = answer.message
    document: dict[str, Any] = {
        "message": message.data,
        "topic": answer.topic,
        "offset": answer.offset,
        "id": message.id,
        "source": message.source,
        "time": answer.time,
    }
    try:
        document["message"] = message.data.decode()
    except UnicodeDecodeError:
        document["encoding"] = "base64"
    return _encode(document)


def page_document(page: Page) -> bytes:
    """A page, cut short where its JSON would pass the bound of an answer: `next` continues there."""
    document = _encode({"messages": [event_of(stored) for stored in page.messages], "next": page.next})
    if len(document) <= PAGE_BYTES or len(page.messages) <= 1:
        return document
    return _cut_document(page)


def _cut_document(page: Page) -> bytes:
    """Of a page that is too large, what fits: base64 and escapes may make more of it than the core weighed."""
    events: list[Raw] = []
    size = 0
    cursor = page.next
    for stored in page.messages:
        event = encode_event(stored)
        size += len(event) + 1
        if events and size > PAGE_BYTES:
            break
        events.append(Raw(event))
        cursor = stored.offset
    return _encode({"messages": events, "next": cursor})


def published_document(published: Published) -> bytes:
    return _encode(published)


def batch_document(published: Sequence[Published]) -> bytes:
    return _encode({"messages": published})


def topics_document(page: TopicPage) -> bytes:
    return _encode(page)


def problem_document(
    error: TriviumError,
    *,
    status: int,
    instance: str | None = None,
    members: Mapping[str, Any] | None = None,
) -> bytes:
    """RFC 9457, with the extensions `code`, `field` and `retry_after` (seconds) where they say something.

    `members` are more extensions.
    """
    document = {
        "type": f"urn:trivium:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": str(error),
        "instance": instance,
        "code": error.code,
        "field": error.field,
        "retry_after": error.retry_after,
        **(members or {}),
    }
    return _encode({name: value for name, value in document.items() if value is not None})
