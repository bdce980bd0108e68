"""The RPCs of `trivium.v1.Messages`, but for PublishStream."""

from collections.abc import Mapping
from contextlib import aclosing

from core.limits import Limits
from core.telemetry.propagation import propagate
from proto.trivium.v1 import messages_pb2 as pb
from transports.grpc import codec
from transports.grpc.calls import Call, Rpc, unary
from transports.grpc.publishing import PublishStream

SERVICE = pb.DESCRIPTOR.services_by_name["Messages"]
#: Encoded messages kept for other readers; a fraction of the log's own tail, since crowds stand at its end.
_ENCODED_BYTES = 16 * 1024 * 1024


class Messages:
    """Decodes, calls the service, encodes."""

    def __init__(self, publish_stream: PublishStream, *, limits: Limits, has_log: bool) -> None:
        """What is encoded is kept only where the log is."""
        self._publish_stream = publish_stream
        self._limits = limits
        self._encoded = codec.EncodedMessages(_ENCODED_BYTES if has_log else 0)

    @property
    def rpcs(self) -> Mapping[str, Rpc]:
        return {
            "GetData": unary("get_data", self._get_data),
            "Publish": unary("publish", self._publish),
            "PublishStream": Rpc("publish", self._publish_stream.serve),
            "GetMessage": unary("get_message", self._get_message),
            "ReadMessages": unary("read_messages", self._read_messages),
            "Follow": Rpc("follow", self._follow),
            "ListTopics": unary("list_topics", self._list_topics),
        }

    async def _get_data(self, call: Call, raw: bytes) -> bytes:
        request = codec.parse(pb.GetDataRequest, raw)
        return self._encoded.data(await call.service.get_data(request.topic or None))

    async def _publish(self, call: Call, raw: bytes) -> bytes:
        topic, messages = codec.decode_publish(pb.PublishRequest, raw, self._limits)
        return codec.encode_published(await call.service.publish(topic, propagate(messages, self._limits)))

    async def _get_message(self, call: Call, raw: bytes) -> bytes:
        request = codec.parse(pb.GetMessageRequest, raw)
        return self._encoded.one(await call.service.get_message(request.topic, request.offset))

    async def _read_messages(self, call: Call, raw: bytes) -> bytes:
        request = codec.parse(pb.ReadMessagesRequest, raw)
        page = await call.service.read_messages(
            request.topic,
            after=request.after,
            limit=request.limit if request.HasField("limit") else None,
            wait=request.wait_seconds,
        )
        return self._encoded.page(page)

    async def _follow(self, call: Call) -> None:
        request = codec.parse(pb.FollowRequest, await call.request())
        after = request.after if request.HasField("after") else None
        async with aclosing(call.service.follow(request.topic, after)) as pages:
            async for page in pages:
                await call.write(self._encoded.page(page))

    async def _list_topics(self, call: Call, raw: bytes) -> bytes:
        request = codec.parse(pb.ListTopicsRequest, raw)
        limit = request.limit if request.HasField("limit") else None
        return codec.encode_topics(await call.service.list_topics(after=request.after, limit=limit))
