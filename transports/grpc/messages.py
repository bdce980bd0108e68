"""The RPCs of `trivium.v1.Messages`, but for PublishStream."""

from collections.abc import Mapping
from contextlib import aclosing

from core.limits import Limits
from core.ports import MessageService
from proto.trivium.v1 import messages_pb2 as pb
from transports.grpc import codec
from transports.grpc.calls import Call, Handler, unary
from transports.grpc.publishing import PublishStream

SERVICE = pb.DESCRIPTOR.services_by_name["Messages"]
#: Encoded messages kept for other readers; a fraction of the log's own tail, since crowds stand at its end.
_ENCODED_BYTES = 16 * 1024 * 1024


class Messages:
    """Decodes, calls the service, encodes."""

    def __init__(self, service: MessageService, publish_stream: PublishStream, *, limits: Limits) -> None:
        self._service = service
        self._publish_stream = publish_stream
        self._limits = limits
        self._encoded = codec.EncodedMessages(_ENCODED_BYTES)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            "GetData": unary(self._get_data),
            "Publish": unary(self._publish),
            "PublishStream": self._publish_stream.serve,
            "GetMessage": unary(self._get_message),
            "ReadMessages": unary(self._read_messages),
            "Follow": self._follow,
            "ListTopics": unary(self._list_topics),
        }

    async def _get_data(self, raw: bytes) -> bytes:
        request = codec.parse(pb.GetDataRequest, raw)
        return self._encoded.data(await self._service.get_data(request.topic or None))

    async def _publish(self, raw: bytes) -> bytes:
        topic, messages = codec.decode_publish(pb.PublishRequest, raw, self._limits)
        return codec.encode_published(await self._service.publish(topic, messages))

    async def _get_message(self, raw: bytes) -> bytes:
        request = codec.parse(pb.GetMessageRequest, raw)
        return self._encoded.one(await self._service.get_message(request.topic, request.offset))

    async def _read_messages(self, raw: bytes) -> bytes:
        request = codec.parse(pb.ReadMessagesRequest, raw)
        page = await self._service.read_messages(
            request.topic,
            after=request.after,
            limit=request.limit if request.HasField("limit") else None,
            wait=request.wait_seconds,
        )
        return self._encoded.page(page)

    async def _follow(self, call: Call) -> None:
        request = codec.parse(pb.FollowRequest, await call.request())
        after = request.after if request.HasField("after") else None
        async with aclosing(self._service.follow(request.topic, after)) as pages:
            async for page in pages:
                await call.write(self._encoded.page(page))

    async def _list_topics(self, raw: bytes) -> bytes:
        request = codec.parse(pb.ListTopicsRequest, raw)
        limit = request.limit if request.HasField("limit") else None
        return codec.encode_topics(await self._service.list_topics(after=request.after, limit=limit))
