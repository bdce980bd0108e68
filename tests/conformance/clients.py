"""The operations as a client sees them: in process, and through each door. All answer in the words of `core`."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

import aio_pika
import grpc.aio
import httpx2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from core import errors
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicHead, TopicPage
from core.ports import MessageService
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from transports.cloudevents import format_time, parse_time

_ERRORS = {kind.code: kind for kind in errors.TriviumError.__subclasses__()}


class Client(Protocol):
    """`MessageService` from outside; errors are raised as the door tells them."""

    @property
    def follows(self) -> bool: ...

    async def get_data(self, topic: str) -> StoredMessage | Greeting: ...
    async def publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]: ...
    async def get_message(self, topic: str, offset: int) -> StoredMessage: ...
    async def read_messages(self, topic: str, *, after: int, limit: int, wait: float = 0) -> Page: ...
    async def list_topics(self, *, after: str, limit: int) -> TopicPage: ...
    def follow(self, topic: str, after: int) -> AsyncGenerator[StoredMessage]: ...


class InProcess:
    """The service itself."""

    follows = True

    def __init__(self, service: MessageService) -> None:
        self._service = service
        self.get_data = service.get_data
        self.get_message = service.get_message
        self.read_messages = service.read_messages
        self.list_topics = service.list_topics

    async def publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        return await self._service.publish(topic, messages)

    async def follow(self, topic: str, after: int) -> AsyncGenerator[StoredMessage]:
        async for page in self._service.follow(topic, after):
            for stored in page.messages:
                yield stored


class Rest:
    """HTTP/1.1, batches of structured CloudEvents, SSE."""

    follows = True

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def get_data(self, topic: str) -> StoredMessage | Greeting:
        return _data(await self._ask("GET", "/api/data", params={"topic": topic}))

    async def publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        headers = {"content-type": "application/cloudevents-batch+json"}
        body = json.dumps([_event(message) for message in messages])
        answer = await self._ask("POST", f"/api/topics/{topic}/messages", content=body, headers=headers)
        return _published(answer)

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return _stored(await self._ask("GET", f"/api/topics/{topic}/messages/{offset}"))

    async def read_messages(self, topic: str, *, after: int, limit: int, wait: float = 0) -> Page:
        params = {"after": after, "limit": limit, "wait": wait}
        return _page(await self._ask("GET", f"/api/topics/{topic}/messages", params=params))

    async def list_topics(self, *, after: str, limit: int) -> TopicPage:
        return _topics(await self._ask("GET", "/api/topics", params={"after": after, "limit": limit}))

    async def follow(self, topic: str, after: int) -> AsyncGenerator[StoredMessage]:
        async with self._http.stream("GET", f"/api/topics/{topic}/stream", params={"after": after}) as answer:
            lines: list[str] = []
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    lines.append(line[5:].removeprefix(" "))
                elif not line and lines:
                    yield _stored(json.loads("\n".join(lines)))
                    lines.clear()

    async def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        answer = await self._http.request(method, path, **arguments)
        document = answer.json()
        if answer.is_error:
            raise _problem(document)
        return document


class Grpc:
    """Unary calls, and Follow."""

    follows = True

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = MessagesStub(channel)

    async def get_data(self, topic: str) -> StoredMessage | Greeting:
        answer = await self._ask("GetData", pb.GetDataRequest(topic=topic))
        if answer.WhichOneof("result") == "greeting":
            return Greeting(topic, answer.greeting)
        return _from_pb(answer.message)

    async def publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        request = pb.PublishRequest(topic=topic, messages=map(_to_pb, messages))
        answer = await self._ask("Publish", request)
        return tuple(Published(one.topic, one.offset, one.id, one.duplicate) for one in answer.messages)

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return _from_pb((await self._ask("GetMessage", pb.GetMessageRequest(topic=topic, offset=offset))).message)

    async def read_messages(self, topic: str, *, after: int, limit: int, wait: float = 0) -> Page:
        request = pb.ReadMessagesRequest(topic=topic, after=after, limit=limit, wait_seconds=wait)
        answer = await self._ask("ReadMessages", request)
        return Page(tuple(map(_from_pb, answer.messages)), answer.next)

    async def list_topics(self, *, after: str, limit: int) -> TopicPage:
        answer = await self._ask("ListTopics", pb.ListTopicsRequest(after=after, limit=limit))
        return TopicPage(tuple(TopicHead(one.topic, one.head) for one in answer.topics), answer.next or None)

    async def follow(self, topic: str, after: int) -> AsyncGenerator[StoredMessage]:
        call = self._stub.Follow(pb.FollowRequest(topic=topic, after=after))
        try:
            async for answer in call:
                for message in answer.messages:
                    yield _from_pb(message)
        finally:
            call.cancel()

    async def _ask(self, name: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, name)(request)
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has the calls' trailing metadata
            info = ErrorInfo()
            if status is None or not any(detail.Unpack(info) for detail in status.details):
                raise
            raise _ERRORS[info.reason](status.message) from error


class AmqpRpc:
    """Requests to the queue `trivium.rpc`, answers to a queue of its own, told apart by correlation id."""

    follows = False

    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: str, reply_to: str) -> None:
        self._channel = channel
        self._queue = queue
        self._reply_to = reply_to
        self._asked: dict[str, asyncio.Future[aio_pika.abc.AbstractIncomingMessage]] = {}

    async def answer(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        """Take an answer to whoever waits for it."""
        self._asked.pop(str(message.correlation_id)).set_result(message)

    async def get_data(self, topic: str) -> StoredMessage | Greeting:
        return _data(await self._ask("GetData", {"topic": topic}))

    async def publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        answer = await self._ask("Publish", {"topic": topic, "messages": [_event(message) for message in messages]})
        return _published(answer)

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return _stored(await self._ask("GetMessage", {"topic": topic, "offset": offset}))

    async def read_messages(self, topic: str, *, after: int, limit: int, wait: float = 0) -> Page:
        body = {"topic": topic, "after": after, "limit": limit, "wait": wait}
        return _page(await self._ask("ReadMessages", body))

    async def list_topics(self, *, after: str, limit: int) -> TopicPage:
        return _topics(await self._ask("ListTopics", {"after": after, "limit": limit}))

    async def follow(self, topic: str, after: int) -> AsyncGenerator[StoredMessage]:
        raise NotImplementedError("AMQP follows by a queue bound to trivium.out")
        yield

    async def _ask(self, operation: str, body: dict[str, Any]) -> Any:
        request = aio_pika.Message(
            json.dumps(body).encode(),
            type=operation,
            reply_to=self._reply_to,
            correlation_id=uuid4().hex,
            content_type="application/json",
        )
        asked = self._asked[str(request.correlation_id)] = asyncio.get_running_loop().create_future()
        await self._channel.default_exchange.publish(request, self._queue)
        answer = await asked
        document = json.loads(answer.body)
        if answer.type == "error":
            raise _problem(document)
        assert answer.type == operation
        return document


@asynccontextmanager
async def amqp_rpc(url: str, queue: str) -> AsyncIterator[AmqpRpc]:
    """A client with a queue of its own for answers."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        client = AmqpRpc(channel, queue, replies.name)
        await replies.consume(client.answer, no_ack=True)
        yield client


def _event(message: Message) -> dict[str, Any]:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": message.type,
        "datacontenttype": message.content_type,
        "data_base64": base64.b64encode(message.data).decode(),
        "subject": message.subject,
        "time": None if message.time is None else format_time(message.time),
        "partitionkey": message.key,
        **message.attributes,
    }
    return {name: value for name, value in event.items() if value is not None}


def _stored(event: dict[str, Any]) -> StoredMessage:
    content_type = event.pop("datacontenttype")
    data = b""
    if "data_base64" in event:
        data = base64.b64decode(event.pop("data_base64"))
    elif "data" in event:
        value = event.pop("data")
        data = value.encode() if not content_type.endswith("json") else json.dumps(value).encode()
    assert event.pop("specversion") == "1.0"
    topic, offset, time = event.pop("topic"), int(event.pop("offset")), parse_time(event.pop("time"), "time")
    message = Message(
        id=event.pop("id"),
        source=event.pop("source"),
        type=event.pop("type"),
        data=data,
        content_type=content_type,
        subject=event.pop("subject", None),
        key=event.pop("partitionkey", None),
        attributes=event,
    )
    return StoredMessage(topic, offset, time, message)


def _page(document: dict[str, Any]) -> Page:
    return Page(tuple(map(_stored, document["messages"])), document["next"])


def _topics(document: dict[str, Any]) -> TopicPage:
    return TopicPage(tuple(TopicHead(**one) for one in document["topics"]), document["next"])


def _published(document: dict[str, Any]) -> tuple[Published, ...]:
    return tuple(Published(**one) for one in document["messages"])


def _data(document: dict[str, Any]) -> StoredMessage | Greeting:
    if not document["offset"]:
        return Greeting(document["topic"], document["message"])
    data = document["message"].encode()
    if document.get("encoding") == "base64":
        data = base64.b64decode(data)
    message = Message(id=document["id"], source=document["source"], type="", data=data, content_type="")
    return StoredMessage(document["topic"], document["offset"], parse_time(document["time"], "time"), message)


def _problem(document: dict[str, Any]) -> errors.TriviumError:
    return _ERRORS[document["code"]](document["detail"])


def _to_pb(message: Message) -> pb.Message:
    time = None
    if message.time is not None:
        time = Timestamp()
        time.FromDatetime(message.time)
    return pb.Message(
        id=message.id,
        source=message.source,
        type=message.type,
        subject=message.subject,
        time=time,
        content_type=message.content_type,
        data=message.data,
        key=message.key,
        attributes=message.attributes,
    )


def _from_pb(one: pb.Message) -> StoredMessage:
    time = parse_time(one.time.ToJsonString(), "time")
    message = Message(
        id=one.id,
        source=one.source,
        type=one.type,
        data=one.data,
        content_type=one.content_type,
        subject=one.subject if one.HasField("subject") else None,
        key=one.key if one.HasField("key") else None,
        attributes=dict(one.attributes),
    )
    return StoredMessage(one.topic, one.offset, time, message)
