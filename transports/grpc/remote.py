"""A core over gRPC: one channel per address, shared by all callers."""

import asyncio
import json
from asyncio import Future
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message as ProtobufMessage

from core import deadlines
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicHead, TopicPage
from core.remote.links import Unreachable
from core.settings import Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from transports.grpc import remote_codec as codec
from transports.grpc.codec import encode_request
from transports.grpc.errors import error_of
from transports.grpc.threads import patient

#: Every address of a name gets its share of the calls. Retries are made by `core.remote`, which sees all addresses,
#: both protocols and RetryInfo; gRPC's own would multiply with them.
_SERVICE_CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 0),
    # A connection of its own: connections that gRPC shares between channels share their back-off too.
    ("grpc.use_local_subchannel_pool", 1),
    # A core that was restarted is found again soon; gRPC's default goes up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # for each attempt to connect: TLS far away takes its time
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A core that has gone without a word is noticed by streams after these, in milliseconds. It takes a ping every
    # ten seconds, and hangs up on who sends more.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # As aiohttp: credentials and messages go to the address that the settings name, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # Answers hold 3 MiB or one message.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
]


class GrpcLink:
    """`core.remote.links.Link` over gRPC."""

    def __init__(self, address: str, settings: Settings) -> None:
        """`address` is `grpc://host:port`, or `grpcs://` for TLS."""
        scheme, _, target = address.partition("://")
        self._target = f"dns:///{target}"
        self._tls = scheme == "grpcs"
        self._settings = settings

    async def __aenter__(self) -> Self:
        with patient():  # gRPC starts its threads for the first who needs them, and a door here may be the next
            if self._tls:
                self._channel = grpc.aio.secure_channel(self._target, _credentials(self._settings), _OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._target, _OPTIONS)
        self._stub = MessagesStub(self._channel)
        self._health = self._channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(None)

    def on_behalf_of(self, authorization: str | None) -> "GrpcCore":
        if authorization is not None:
            return GrpcCore(self._stub, (("authorization", authorization),))
        key = self._settings.core_api_key
        return GrpcCore(self._stub, (("x-api-key", key),) if key else ())

    async def probe(self) -> None:
        """Ask the health service; whoever answers at all is there."""
        try:
            await self._health(b"")
        except grpc.aio.AioRpcError as error:
            reason = error_of(error)
            if isinstance(reason, Unreachable):
                raise reason from error


class GrpcCore:
    """The core at one address for one caller. Each call is one attempt within the deadline of its task."""

    def __init__(self, stub: MessagesStub, metadata: Sequence[tuple[str, str]]) -> None:
        self._stub: Any = stub
        self._metadata = metadata

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        answer: pb.GetDataResponse = await self._ask(self._stub.GetData, pb.GetDataRequest(topic=topic))
        return codec.decode_data(topic or "", answer)

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        return asyncio.ensure_future(self._publish(topic, messages))

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        request = pb.GetMessageRequest(topic=topic, offset=offset)
        answer: pb.GetMessageResponse = await self._ask(self._stub.GetMessage, request)
        return codec.decode_stored(answer.message)

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        request = pb.ReadMessagesRequest(topic=topic, after=after, limit=limit, wait_seconds=wait)
        return codec.decode_page(await self._ask(self._stub.ReadMessages, request))

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        call = self._stub.Follow(pb.FollowRequest(topic=topic, after=after), metadata=self._metadata)
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack EOF
                yield codec.decode_page(_parsed(answer))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        answer: pb.ListTopicsResponse = await self._ask(
            self._stub.ListTopics, pb.ListTopicsRequest(after=after, limit=limit)
        )
        return TopicPage(tuple(TopicHead(one.topic, one.head) for one in answer.topics), answer.next or None)

    async def _publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        answer: pb.PublishResponse = await self._ask(self._stub.Publish, encode_request(topic, messages))
        return tuple(Published(one.topic, one.offset, one.id, one.duplicate) for one in answer.messages)

    async def _ask(self, rpc: Any, request: ProtobufMessage) -> Any:
        try:
            return _parsed(await rpc(request, timeout=deadlines.remaining(), metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error


def _parsed(answer: Any) -> Any:
    """What gRPC gives for an answer: None if it is not the protobuf that it should be."""
    if answer is None:
        raise codec.foreign()
    return answer


def _credentials(settings: Settings) -> grpc.ChannelCredentials:
    """Raises `OSError` if a file can't be read."""

    def content(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(
        content(settings.core_tls_ca), content(settings.core_tls_key), content(settings.core_tls_cert)
    )
