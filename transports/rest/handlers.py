"""The operations: each decodes a request, calls the service once and encodes its answer."""

from typing import Any

from core.errors import InvalidArgument, Unavailable
from core.gate import Gate
from core.health import Health
from core.messages import Published, StoredMessage
from core.settings import Settings
from transports.cloudevents import STRUCTURED, encode_event
from transports.documents import (
    batch_document,
    data_document,
    page_document,
    published_document,
    topics_document,
)
from transports.rest.administration import key_answer, keys_answer, new_key_answer, wanted_key
from transports.rest.answers import Answer, age_headers, json_answer, problem
from transports.rest.credentials import admit
from transports.rest.presence import while_present
from transports.rest.publishing import messages_of, text_message_of
from transports.rest.requests import Request, cursor, integer, optional, seconds
from transports.rest.streams import STREAM_START, EventStream, EventStreams

#: How `?verbose` may be written.
_VERBOSE = ("", "1", "true")


class Handlers:
    """The handler of every operation. They raise what the service raises."""

    def __init__(self, gate: Gate, health: Health, settings: Settings) -> None:
        self._gate = gate
        self._health = health
        self._default_topic = settings.default_topic
        self._limits = settings.limits
        self._streams = EventStreams(settings)

    async def get_data(self, request: Request) -> Answer:
        query = request.query("topic")
        newest = await request.service.get_data(query.get("topic"))
        if isinstance(newest, StoredMessage) and request.accepts(STRUCTURED):
            return Answer(body=encode_event(newest), content_type=STRUCTURED, headers=age_headers(newest))
        return Answer(body=data_document(newest), headers=age_headers(newest))

    async def post_data(self, request: Request) -> Answer:
        request.query()
        message = text_message_of(request, self._limits)
        (published,) = await request.service.publish(self._default_topic, [message])
        return _published(published)

    async def publish(self, request: Request) -> Answer:
        key = request.query("key").get("key")
        messages, is_batch = messages_of(request, key, self._limits)
        published = await request.service.publish(request.path["topic"], messages)
        if not is_batch:
            return _published(published[0])
        stored = any(not one.duplicate for one in published)
        return Answer(status=201 if stored else 200, body=batch_document(published))

    async def get_message(self, request: Request) -> Answer:
        request.query()
        offset = integer(request.path["offset"], "offset")
        stored = await request.service.get_message(request.path["topic"], offset)
        return Answer(body=encode_event(stored), content_type=STRUCTURED)

    async def read_messages(self, request: Request) -> Answer:
        query = request.query("after", "limit", "wait")
        after = optional(integer, query.get("after"), "after") or 0
        limit = optional(integer, query.get("limit"), "limit")
        wait = optional(seconds, query.get("wait"), "wait") or 0.0
        topic = request.path["topic"]
        if not wait:
            page = await request.service.read_messages(topic, after=after, limit=limit)
        else:
            async with while_present(request.receive):
                page = await request.service.read_messages(topic, after=after, limit=limit, wait=wait)
        return Answer(body=page_document(page), headers=age_headers(page))

    async def follow(self, request: Request) -> Answer | EventStream:
        after = optional(cursor, request.query("after").get("after"), "after")
        last = optional(cursor, request.header(b"last-event-id"), "last-event-id")
        pages = request.service.follow(request.path["topic"], after if last is None else last)
        try:
            first = await anext(pages)
        except InvalidArgument as error:
            if last is None or error.field != "after":
                raise
            raise InvalidArgument(error.detail, field="last-event-id") from error
        if request.method == "HEAD":
            await pages.aclose()
            return STREAM_START
        return EventStream(pages, first.next, request.session, self._streams)

    async def list_topics(self, request: Request) -> Answer:
        query = request.query("after", "limit")
        page = await request.service.list_topics(
            after=query.get("after", ""), limit=optional(integer, query.get("limit"), "limit")
        )
        return Answer(body=topics_document(page))

    async def create_key(self, request: Request) -> Answer:
        request.query()
        keys = request.keys
        return new_key_answer(await keys.create_key(*wanted_key(request)))

    async def list_keys(self, request: Request) -> Answer:
        query = request.query("after", "limit")
        limit = optional(integer, query.get("limit"), "limit")
        return keys_answer(await request.keys.list_keys(after=query.get("after", ""), limit=limit))

    async def revoke_key(self, request: Request) -> Answer:
        request.query()
        return key_answer(await request.keys.revoke_key(request.path["id"]))

    async def live(self, request: Request) -> Answer:
        request.query()
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Answer:
        verbose = request.query("verbose").get("verbose")
        if verbose not in (None, *_VERBOSE):
            raise InvalidArgument("takes no value, or 1 or true", field="verbose")
        members: dict[str, Any] = {}
        if verbose is not None:  # addresses and errors of other systems are not for everybody
            await admit(self._gate, request.scope)
            members["checks"] = self._health.told()
        if self._health.ready:
            return json_answer({"status": "ok", **members})
        return problem(Unavailable(self._health.problem), request.scope, members=members)


def _published(published: Published) -> Answer:
    location = b"/api/topics/%b/messages/%d" % (published.topic.encode(), published.offset)
    return Answer(
        status=200 if published.duplicate else 201,
        body=published_document(published),
        headers=((b"location", location),),
    )
