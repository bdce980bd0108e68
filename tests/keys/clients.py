"""`KeyService` through every way to it, and the command line."""

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import grpc
import httpx2
import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from core.administration import KeyInfo, KeyPage, NewKey
from core.errors import TriviumError
from proto.trivium.v1 import keys_pb2 as pb
from proto.trivium.v1.keys_pb2_grpc import KeysStub
from transports.documents import STATUS

ROOT = Path(__file__).parents[2]
ERRORS = {error.code: error for error in STATUS}

POLICY = """
[principals.boss]
publish = ["#"]
read = ["#"]
admin = ["#"]

[principals.shop]
publish = ["orders.*"]
read = ["orders.#"]
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


async def keys(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run `main.py keys` to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "main.py",
        "keys",
        *arguments,
        cwd=ROOT,
        env={"PATH": "", **(env or {})},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class RestKeys:
    """Through REST, as whoever `key` is of."""

    def __init__(self, http: httpx2.AsyncClient, key: str) -> None:
        self._http = http
        self._headers = {"Authorization": f"Bearer {key}"}

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        document = await self._ask("POST", "/api/keys", json={"principal": principal, "days": days})
        return NewKey(document.pop("key"), msgspec.convert(document, KeyInfo))

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        wanted = {"after": after, "limit": limit} if limit is not None else {"after": after}
        return msgspec.convert(await self._ask("GET", "/api/keys", params=wanted), KeyPage)

    async def revoke_key(self, id: str) -> KeyInfo:
        return msgspec.convert(await self._ask("DELETE", f"/api/keys/{id}"), KeyInfo)

    async def _ask(self, method: str, path: str, **rest: Any) -> Any:
        answer = await self._http.request(method, path, headers=self._headers, **rest)
        document = answer.json()
        if answer.is_error:
            raise ERRORS[document["code"]](document["detail"], field=document.get("field"))
        return document


class GrpcKeys:
    """Through gRPC, as whoever `key` is of."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self._stub: Any = KeysStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),)

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        answer = await self._ask(self._stub.CreateKey, pb.CreateKeyRequest(principal=principal, days=days))
        return NewKey(answer.key, _info(answer.info))

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        answer = await self._ask(self._stub.ListKeys, pb.ListKeysRequest(after=after, limit=limit))
        return KeyPage(tuple(map(_info, answer.keys)), answer.next or None)

    async def revoke_key(self, id: str) -> KeyInfo:
        return _info((await self._ask(self._stub.RevokeKey, pb.RevokeKeyRequest(id=id))).info)

    async def _ask(self, rpc: Any, request: Any) -> Any:
        try:
            return await rpc(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error


def _error(error: grpc.aio.AioRpcError) -> TriviumError:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has what a call has
    assert status is not None
    info, bad = ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else None
    return ERRORS[info.reason](status.message, field=field)


def _info(info: pb.KeyInfo) -> KeyInfo:
    def time(name: str) -> datetime | None:
        return _time(getattr(info, name)) if info.HasField(name) else None

    return KeyInfo(
        id=info.id,
        principal=info.principal,
        created=_time(info.created),
        expires=time("expires"),
        revoked=time("revoked"),
        last_used=time("last_used"),
    )


def _time(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)
