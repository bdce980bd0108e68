"""The RPCs of `trivium.v1.Keys`."""

from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from core.administration import KeyInfo
from proto.trivium.v1 import keys_pb2 as pb
from transports.grpc.calls import Call, Rpc, unary
from transports.grpc.codec import encode_time, parse

SERVICE = pb.DESCRIPTOR.services_by_name["Keys"]


class Keys:
    """Decodes, calls the service, encodes."""

    @property
    def rpcs(self) -> Mapping[str, Rpc]:
        return {
            "CreateKey": unary("create_key", self._create_key),
            "ListKeys": unary("list_keys", self._list_keys),
            "RevokeKey": unary("revoke_key", self._revoke_key),
        }

    async def _create_key(self, call: Call, raw: bytes) -> bytes:
        request = parse(pb.CreateKeyRequest, raw)
        made = await call.keys.create_key(request.principal, request.days if request.HasField("days") else None)
        return pb.CreateKeyResponse(key=made.key, info=_encode(made.info)).SerializeToString()

    async def _list_keys(self, call: Call, raw: bytes) -> bytes:
        request = parse(pb.ListKeysRequest, raw)
        limit = request.limit if request.HasField("limit") else None
        page = await call.keys.list_keys(after=request.after, limit=limit)
        return pb.ListKeysResponse(keys=map(_encode, page.keys), next=page.next).SerializeToString()

    async def _revoke_key(self, call: Call, raw: bytes) -> bytes:
        info = await call.keys.revoke_key(parse(pb.RevokeKeyRequest, raw).id)
        return pb.RevokeKeyResponse(info=_encode(info)).SerializeToString()


def _encode(key: KeyInfo) -> pb.KeyInfo:
    return pb.KeyInfo(
        id=key.id,
        principal=key.principal,
        created=encode_time(key.created),
        expires=_optional(key.expires),
        revoked=_optional(key.revoked),
        last_used=_optional(key.last_used),
    )


def _optional(time: datetime | None) -> Timestamp | None:
    return None if time is None else encode_time(time)
