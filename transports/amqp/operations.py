"""The operations as RPC names them, with the documents of REST for answers."""

import re
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from core.errors import InvalidArgument, NotFound, TooLarge
from core.limits import Limits, check_json
from core.ports import MessageService
from core.telemetry.meter import UNKNOWN, Instrument, Meter
from core.telemetry.propagation import propagate
from transports import cloudevents, documents
from transports.amqp.answers import Answer

#: As the other doors have it.
_BODY_BYTES = 8 * 1024 * 1024
#: Where msgspec found a fault: "... - at `$.limit`".
_PATH = re.compile(r" - at `\$\.?(\w*)`\Z")

T = TypeVar("T")


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call, in JSON; each operation takes what applies to it. An empty body asks for the defaults.

    `messages` are CloudEvents in JSON format, in which every attribute may be missing and is filled in then.
    """

    topic: str | None = None
    after: int | str | None = None
    limit: int | None = None
    wait: float = 0
    offset: int | None = None
    messages: list[Raw] | None = None


class Operations:
    """Decodes a request, calls the service, encodes what it answers."""

    def __init__(self, meter: Meter, limits: Limits) -> None:
        self._limits = limits
        self._named: dict[str, Callable[[MessageService, Request], Awaitable[bytes]]] = {
            "GetData": self._get_data,
            "Publish": self._publish,
            "GetMessage": self._get_message,
            "ReadMessages": self._read_messages,
            "ListTopics": self._list_topics,
        }
        self._counted = {name: meter.operation(name) for name in self._named}
        self._unknown = meter.operation(UNKNOWN)

    def instrument(self, name: str | None) -> Instrument:
        """What counts calls of that name."""
        return self._unknown if name is None else self._counted.get(name, self._unknown)

    @property
    def names(self) -> Collection[str]:
        return self._named.keys()

    async def call(self, name: str | None, service: MessageService, body: bytes) -> Answer:
        """Raises `TriviumError`. A publish has begun when this suspends for the first time."""
        if name is None:
            raise InvalidArgument("must name the operation", field="type")
        operation = self._named.get(name)
        if operation is None:
            raise NotFound(f"no operation is named {name[:40]!r}; there are {', '.join(self._named)}", field="type")
        content_type = cloudevents.STRUCTURED if name == "GetMessage" else cloudevents.JSON
        return Answer(name, content_type, await operation(service, _request(body)))

    async def _get_data(self, service: MessageService, request: Request) -> bytes:
        return documents.data_document(await service.get_data(request.topic))

    async def _publish(self, service: MessageService, request: Request) -> bytes:
        elements = _required(request.messages, "messages")
        messages = propagate(cloudevents.decode_elements(elements, self._limits, required=()), self._limits)
        return documents.batch_document(await service.publish(_required(request.topic, "topic"), messages))

    async def _get_message(self, service: MessageService, request: Request) -> bytes:
        offset = _required(request.offset, "offset")
        return cloudevents.encode_event(await service.get_message(_required(request.topic, "topic"), offset))

    async def _read_messages(self, service: MessageService, request: Request) -> bytes:
        after = 0 if request.after is None else request.after
        if isinstance(after, str):
            raise InvalidArgument("must be an integer", field="after")
        topic = _required(request.topic, "topic")
        page = await service.read_messages(topic, after=after, limit=request.limit, wait=request.wait)
        return documents.page_document(page)

    async def _list_topics(self, service: MessageService, request: Request) -> bytes:
        after = "" if request.after is None else request.after
        if isinstance(after, int):
            raise InvalidArgument("must be a topic's name", field="after")
        return documents.topics_document(await service.list_topics(after=after, limit=request.limit))


_decoder = msgspec.json.Decoder(Request)


def _request(body: bytes) -> Request:
    if len(body) > _BODY_BYTES:
        raise TooLarge(f"{len(body)} bytes, at most {_BODY_BYTES}", field="body")
    if not body:
        return Request()
    check_json(body, "body")
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        path = _PATH.search(str(error))
        field = path[1] if path and path[1] else "body"
        raise InvalidArgument(_PATH.sub("", str(error)), field=field) from error


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidArgument("is required", field=field)
    return value
