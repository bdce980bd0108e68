"""Messages from an HTTP request: the CloudEvents HTTP binding 1.0.2, and plain bodies."""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from core.errors import InvalidArgument, UnsupportedMediaType
from core.limits import Limits, media_type
from core.messages import Message, new_message
from core.telemetry.propagation import propagate
from transports.cloudevents import BATCH, STRUCTURED, decode_batch, decode_event, message_of, require
from transports.rest.requests import Request, content_type, json_body, percent_decode, unquote, utf8

_PREFIX = b"ce-"
_CHARSET = re.compile(r';\s*charset\s*=\s*"?utf-?8"?\s*(;|\Z)', re.IGNORECASE)
_TEXT = "text/plain; charset=utf-8"


class _Data(Struct, forbid_unknown_fields=True):
    """The body of `POST /api/data`."""

    message: str


_data = msgspec.json.Decoder(_Data)


def messages_of(request: Request, key: str | None, limits: Limits) -> tuple[Sequence[Message], bool]:
    """The messages of a publishing request, and whether they are a batch.

    `key` is their partition key, for those that bring none. Raises `InvalidArgument` or `UnsupportedMediaType`; the
    values themselves are judged when they are published. The content type alone tells what a body is, and an event in
    one may have its attributes in headers too (the binding, sections 3 and 3.2.3).
    """
    kind = content_type(request)
    form = _event_form(kind)
    if form == BATCH:
        messages = decode_batch(request.body, limits)
    elif form == STRUCTURED:
        messages = [decode_event(request.body, limits)]
    else:
        messages = [_one(request, kind)]
    return _with_context(messages, key, limits), form == BATCH


def text_message_of(request: Request, limits: Limits) -> Message:
    """The message of `POST /api/data`: `{"message": <string>}`."""
    text = json_body(request, _data, '{"message": <string>}').message.encode()
    message = new_message(text, id=_idempotency_key(request), content_type=_TEXT)
    return _with_context([message], None, limits)[0]


def _one(request: Request, kind: str | None) -> Message:
    """A message from its attributes in headers: in binary mode a whole event, else what overrides the fill-ins."""
    attributes = _ce_headers(request)
    key = _idempotency_key(request)
    if key is not None:
        attributes.setdefault("id", key)
    if "specversion" in attributes:
        require(attributes, ("id", "source", "type"))
    return message_of(attributes, request.body, kind)


def _event_form(kind: str | None) -> str | None:
    """`STRUCTURED` or `BATCH`, None for a plain body; `UnsupportedMediaType` for other formats of CloudEvents."""
    media = "" if kind is None else media_type(kind)
    if kind is None or not media.startswith("application/cloudevents"):
        return None
    if media not in (STRUCTURED, BATCH):
        raise UnsupportedMediaType(f"CloudEvents are taken as {STRUCTURED} or {BATCH}", field="content-type")
    if "charset" in kind.lower() and not _CHARSET.search(kind):
        raise UnsupportedMediaType("JSON is taken in UTF-8 only", field="content-type")
    return media


def _idempotency_key(request: Request) -> str | None:
    key = request.header(b"idempotency-key")
    return None if key is None else unquote(key, "idempotency-key")


def _ce_headers(request: Request) -> dict[str, str]:
    """The attributes that stand in `ce-` headers, decoded as section 3.1.3.2 of the binding says."""
    found: dict[str, str] = {}
    for header, value in request.headers:
        if not header.startswith(_PREFIX):
            continue
        field = utf8(header, "headers")
        name = field[len(_PREFIX) :]
        if name in found:
            raise InvalidArgument("must not be given more than once", field=field)
        if value.startswith(b'"'):
            value = unquote(utf8(value, field), field).encode()
        found[name] = percent_decode(value, field)
    return found


def _with_context(messages: Sequence[Message], key: str | None, limits: Limits) -> Sequence[Message]:
    """Fill in the key, and the trace context that the request carried, where the messages bring none."""
    if key is not None:
        messages = [_with_key(message, key) for message in messages]
    return propagate(messages, limits)


def _with_key(message: Message, key: str) -> Message:
    if message.key is not None and key != message.key:
        raise InvalidArgument("is not the partitionkey that the message brings", field="key")
    return msgspec.structs.replace(message, key=message.key or key)
