"""What ends with a key, and what is told of it: a whole service, through every way to its keys."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import httpx2
import pytest

from core.settings import Settings
from core.telemetry.meter import Meter
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.process import TriviumProcess
from tests.keys.clients import GrpcKeys, RestKeys, keys
from transports.amqp.operations import Operations


@pytest.fixture
async def http(service: TriviumProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=service.rest, timeout=60) as http:
        yield http


@pytest.fixture
async def channel(service: TriviumProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        yield channel


async def created(principal: str, flags: list[str]) -> str:
    """A key made by the command."""
    ended = await keys("create", principal, *flags)
    assert ended.code == 0, ended.err
    return ended.out.strip()


async def revoked(way: str, id: str, boss: str, http: httpx2.AsyncClient, channel: Any, flags: list[str]) -> None:
    if way == "command":
        assert (await keys("revoke", id, *flags)).code == 0
    elif way == "rest":
        await RestKeys(http, boss).revoke_key(id)
    else:
        await GrpcKeys(channel, boss).revoke_key(id)


@pytest.mark.parametrize("way", ["command", "rest", "grpc"])
async def test_a_revoked_key_ends_what_it_opened(
    way: str, http: httpx2.AsyncClient, channel: grpc.aio.Channel, flags: list[str]
) -> None:
    """Open streams at both doors and all requests, without waiting for anything; other keys notice nothing."""
    boss, key, other = [await created(principal, flags) for principal in ("boss", "shop", "shop")]
    stub: Any = MessagesStub(channel)
    metadata = (("x-api-key", key),)
    async with AsyncExitStack() as stack:
        path = "/api/topics/orders.new/stream"
        sse, bystander = [
            await stack.enter_async_context(http.stream("GET", path, headers={"X-API-Key": one}))
            for one in (key, other)
        ]
        lines, others = sse.aiter_lines(), bystander.aiter_lines()
        assert await anext(lines) == await anext(others) == "id: 0"
        follow = stub.Follow(pb.FollowRequest(topic="orders.new"), metadata=metadata)
        assert (await follow.read()).next == 0
        publishing = stub.PublishStream(metadata=metadata)
        request = pb.PublishStreamRequest(topic="orders.old", messages=[pb.Message(data=b"x")])
        await publishing.write(request)
        assert (await publishing.read()).messages[0].offset == 1

        await revoked(way, key.split("_")[1], boss, http, channel, flags)
        async with asyncio.timeout(30):
            assert [line async for line in lines] == [""]
            assert await follow.code() is await publishing.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in await follow.details()
        refused = await http.get("/api/topics", headers={"X-API-Key": key})
        assert (refused.status_code, refused.json()["detail"]) == (401, "credential: the API key was revoked")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ListTopics(pb.ListTopicsRequest(), metadata=metadata)
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED

        headers = {"Authorization": f"Bearer {other}"}
        published = await http.post("/api/topics/orders.new/messages", content=b"x", headers=headers)
        assert published.status_code == 201
        assert [await anext(others) for _ in range(3)][1:] == ["id: 1", "event: message"]


async def test_no_key_reaches_a_log(
    service: TriviumProcess, http: httpx2.AsyncClient, channel: grpc.aio.Channel, flags: list[str]
) -> None:
    """Not at level debug, not when it is made, used, mistyped, misplaced, refused or revoked."""
    boss, shop = await created("boss", flags), await created("shop", flags)
    by_rest = await RestKeys(http, boss).create_key("shop")
    await RestKeys(http, boss).revoke_key(by_rest.info.id)
    by_grpc = await GrpcKeys(channel, boss).create_key("shop")
    assert by_rest.key not in repr(by_rest)
    shown = [boss, shop, by_rest.key, by_grpc.key, shop[:-1], shop[:-8] + "canary00", f"{shop}\x1b"[:-1] + "é"]
    stub: Any = MessagesStub(channel)
    for key in shown:
        plain = (b"X-API-Key", key.encode())
        bearer, basic = [(b"Authorization", kind + key.encode()) for kind in (b"Bearer ", b"Basic ")]
        for headers in ([plain], [bearer], [basic], [plain, bearer]):
            await http.get("/api/topics/stock/messages", headers=headers)
        await http.post("/api/keys", headers={"X-API-Key": boss}, json={"principal": key})
        await http.delete(f"/api/keys/{key}", headers={"X-API-Key": boss})
        if key.isascii():
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetMessage(pb.GetMessageRequest(topic="a", offset=9), metadata=(("x-api-key", key),))
    await keys("revoke", shop.split("_")[1], *flags)
    assert await service.end(signal.SIGTERM) == 0
    await service.closed()
    log = "\n".join(map(str, service.lines))
    assert "an API key was made" in log
    assert "session" in log  # what is told at debug
    for key in shown:
        assert key[17:-8] not in log


def test_rabbitmq_carries_no_key(settings: Settings) -> None:
    """AMQP RPC has every operation but those on keys: a message is stored, copied and read by whoever may consume."""
    assert not [name for name in Operations(Meter.of("amqp", settings), settings.limits).names if "Key" in name]
