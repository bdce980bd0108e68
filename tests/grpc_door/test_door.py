"""The life of the door, and what it does not let in."""

import asyncio
import socket
from asyncio import Future
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NoReturn

import grpc
import msgspec
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from structlog.testing import capture_logs

from core.errors import TriviumError
from core.gate import OpenGate
from core.health import Health
from core.messages import Message, Published
from core.service import LocalService
from core.settings import Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.core.opening import alive
from tests.grpc_door.clients import RawClient, calls, connect, failure, framed, request, until
from transports.grpc import arrivals, server
from transports.grpc import door as grpc_door
from transports.grpc.door import GrpcDoor

GET_DATA = "/trivium.v1.Messages/GetData"


async def test_a_free_port_is_told(door: GrpcDoor) -> None:
    """Port 0 takes a free one, which the address names."""
    host, port = door.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert door.name == "grpc"


async def test_a_taken_port_is_a_clear_error(
    door: GrpcDoor, service: LocalService, health: Health, settings: Settings
) -> None:
    """A second door on the port of the first fails to open, and says where."""
    port = int(door.address.rsplit(":", 1)[1])
    second = GrpcDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, grpc_port=port))
    with pytest.raises(OSError, match=f"gRPC can't listen on 127.0.0.1:{port}: Address already in use"):
        await second.__aenter__()


async def test_a_host_that_is_not_here_is_a_clear_error(
    service: LocalService, health: Health, settings: Settings
) -> None:
    """An address of another machine can't be listened on."""
    elsewhere = GrpcDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, grpc_host="192.0.2.1"))
    with pytest.raises(OSError, match=r"gRPC can't listen on 192\.0\.2\.1:0: "):
        await elsewhere.__aenter__()


async def test_ipv6_addresses_are_told_in_brackets(service: LocalService, health: Health, settings: Settings) -> None:
    """The door listens on IPv6 where there is any."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    async with GrpcDoor(
        OpenGate(service, settings), health, msgspec.structs.replace(settings, grpc_host="::1")
    ) as door:
        assert door.address.startswith("[::1]:")
        async with connect(door) as channel:
            await MessagesStub(channel).GetData(pb.GetDataRequest())


async def test_waiting_can_be_given_up(service: LocalService, health: Health, settings: Settings) -> None:
    """Whoever waits for the end may stop waiting, and the door still closes."""
    async with GrpcDoor(OpenGate(service, settings), health, settings) as door:
        waiting = asyncio.create_task(door.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(door.wait())
    await waiting


async def test_open_streams_end_cleanly(service: LocalService, health: Health, settings: Settings) -> None:
    """When the service drains and the door closes, every stream ends with OK, and watchers hear of it first."""
    door = GrpcDoor(OpenGate(service, settings), health, settings)
    await door.__aenter__()
    async with connect(door) as channel:
        stub = MessagesStub(channel)
        follow = stub.Follow(pb.FollowRequest(topic="t"))
        watch = HealthStub(channel).Watch(HealthCheckRequest())
        publish = stub.PublishStream()
        waiting = stub.ReadMessages(pb.ReadMessagesRequest(topic="t", wait_seconds=60))
        await follow.read()
        await watch.read()
        await publish.write(pb.PublishStreamRequest(topic="other", messages=[pb.Message()]))
        assert (await publish.read()).messages[0].offset == 1
        await until(lambda: service.streams == 2)
        health.drain()
        service.drain()
        await door.__aexit__(None, None, None)
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        assert await waiting == pb.ReadMessagesResponse()
        for stream in (follow, watch, publish):
            assert await stream.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack EOF
            assert await stream.code() is grpc.StatusCode.OK


async def test_the_first_call_of_an_rpc_has_more_asked_for(stub: MessagesStub) -> None:
    """Until then one is enough, and takes little memory."""

    def accepting() -> int:
        return sum(task.get_coro().__qualname__ == "_AioServer._accept" for task in asyncio.all_tasks())  # type: ignore[union-attr]  # a coroutine

    await stub.GetData(pb.GetDataRequest())
    assert accepting() == server._AT_ONCE
    await asyncio.gather(*(stub.GetData(pb.GetDataRequest()) for _ in range(100)))
    assert accepting() == server._AT_ONCE


def refuses(door: GrpcDoor) -> bool:
    """Whether the door takes no more connections."""
    host, port = door.address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False


class HeldService(LocalService):
    """Leaves the end of a publish to the test."""

    def __init__(self, service: LocalService) -> None:
        self.__dict__.update(service.__dict__)
        self.begun: list[Future[tuple[Published, ...]]] = []

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]


async def test_what_is_in_flight_is_finished(service: LocalService, health: Health, settings: Settings) -> None:
    """A closing door answers the calls it has begun, and takes no new ones."""
    held = HeldService(service)
    door = GrpcDoor(OpenGate(held, settings), health, settings)
    await door.__aenter__()
    async with connect(door) as channel, connect(door) as late:
        publish = MessagesStub(channel).Publish(request("t", b"x"))
        await until(lambda: held.begun)
        leaving = asyncio.create_task(door.__aexit__(None, None, None))
        await until(lambda: refuses(door))
        assert (await failure(MessagesStub(late).GetData(pb.GetDataRequest()))).code is grpc.StatusCode.UNAVAILABLE
        held.begun[0].set_result((Published("t", 1, "i", False),))
        assert (await publish).messages[0].offset == 1
        await leaving


async def test_a_peer_that_does_not_read_is_cut_off(service: LocalService, health: Health, settings: Settings) -> None:
    """A follower that takes nothing holds the closing door for half of the drain time and no longer."""
    door = GrpcDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, drain_seconds=1.0))
    await door.__aenter__()
    async with connect(door) as channel:
        for _ in range(20):
            await MessagesStub(channel).Publish(request("t", b"x" * 1024 * 1000))
        with closing(RawClient(door)) as stalled:
            stalled.send(b"/trivium.v1.Messages/Follow", framed(b"\x0a\x01t\x10\0"))
            await until(lambda: service.streams)
            service.drain()
            await asyncio.wait_for(door.__aexit__(None, None, None), 30)
            assert service.streams == 0


async def test_a_call_that_never_sent_its_request_does_not_hold_the_door(
    service: LocalService, health: Health, settings: Settings
) -> None:
    """Such a call is told that the service is stopping."""
    door = GrpcDoor(OpenGate(service, settings), health, settings)
    await door.__aenter__()
    async with connect(door) as channel:
        idle = channel.stream_unary(GET_DATA)()
        await channel.unary_unary(GET_DATA)(b"")
        await door.__aexit__(None, None, None)
        failed = await failure(idle)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "unavailable")


@pytest.mark.parametrize("path", [b"/\xff\xfe/x", b"", b"nothing", b"/trivium.v1.Messages/\xc3\x28"])
async def test_a_path_of_any_bytes_is_unimplemented(path: bytes, door: GrpcDoor, channel: Any) -> None:
    """A path that is no text is an unknown RPC, and the server lives on."""
    with closing(RawClient(door)) as peer:
        peer.send(path, framed(b""))
        assert await peer.status() == grpc.StatusCode.UNIMPLEMENTED.value[0]
    await MessagesStub(channel).GetData(pb.GetDataRequest())
    assert calls(door, "Unknown") == {"method_not_allowed": 1}


async def test_a_call_without_a_request_is_refused(door: GrpcDoor) -> None:
    """A peer that half-closes before its request is told so, instead of being left waiting."""
    with closing(RawClient(door)) as peer:
        peer.send(GET_DATA.encode(), b"")
        assert await peer.status() == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_request_has_a_time_to_arrive(door: GrpcDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stops in the middle of its request is let go."""
    monkeypatch.setattr(arrivals, "SECONDS", 0.1)
    with closing(RawClient(door)) as peer:
        peer.send(GET_DATA.encode(), framed(b"x" * 100)[:50], end=False)
        assert await peer.status() == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_messages_above_the_limit_are_refused(stub: MessagesStub, service: LocalService) -> None:
    """gRPC refuses what is larger than a request may be, compressed or not, and the service never sees it."""
    large = request("t", bytes(9 * 1024 * 1024))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        failed = await failure(stub.Publish(large, compression=compression))
        assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await service.list_topics()).topics == ()


async def test_compressed_requests_are_taken(stub: MessagesStub) -> None:
    """A client may compress."""
    await stub.Publish(request("t", bytes(1024 * 1000)), compression=grpc.Compression.Gzip)
    assert (await stub.GetData(pb.GetDataRequest(topic="t"))).message.data == bytes(1024 * 1000)


async def test_metadata_has_a_limit(stub: MessagesStub) -> None:
    """Metadata of 24 KiB passes, of 33 KiB it is refused."""
    await stub.GetData(pb.GetDataRequest(), metadata=[("x-large", "x" * 24 * 1024)])
    failed = await failure(stub.GetData(pb.GetDataRequest(), metadata=[("x-large", "x" * 33 * 1024)]))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_burst_of_calls_is_served(stub: MessagesStub, service: LocalService) -> None:
    """More calls at once than are taken from gRPC at once are all answered, each with an effect of its own."""
    answers = await asyncio.gather(*(stub.Publish(request("t", b"x")) for _ in range(200)))
    assert sorted(answer.messages[0].offset for answer in answers) == list(range(1, 201))


async def test_calls_are_bounded(service: LocalService, health: Health, settings: Settings) -> None:
    """Past the bound a caller hears `overloaded` and when to retry, while health checks still pass."""
    async with (
        GrpcDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, grpc_rpcs=2)) as door,
        connect(door) as channel,
    ):
        stub = MessagesStub(channel)
        streams = [stub.Follow(pb.FollowRequest(topic="t")) for _ in range(2)]
        for stream in streams:
            await stream.read()
        failed = await failure(stub.GetData(pb.GetDataRequest()))
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert failed.retry_after == 1.0
        await HealthStub(channel).Check(HealthCheckRequest())
        for stream in streams:
            stream.cancel()
        await until(lambda: not service.streams)
        await stub.GetData(pb.GetDataRequest())


async def test_calls_beyond_all_bounds_are_told_so(
    service: LocalService, health: Health, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no spare calls are left either, a caller still hears when to retry, and is served once one has ended."""
    monkeypatch.setattr(grpc_door, "_SPARE_RPCS", 0)
    async with (
        GrpcDoor(OpenGate(service, settings), health, msgspec.structs.replace(settings, grpc_rpcs=2)) as door,
        connect(door) as channel,
        connect(door) as other,
    ):
        streams = [MessagesStub(channel).Follow(pb.FollowRequest(topic="t")) for _ in range(2)]
        for stream in streams:
            await stream.read()
        failed = await failure(HealthStub(other).Check(HealthCheckRequest()))
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert failed.retry_after == 1.0
        assert calls(door, "Unknown") == {"overloaded": 1}
        streams[0].cancel()
        await until(lambda: service.streams == 1)
        await HealthStub(other).Check(HealthCheckRequest())


class BrokenService(LocalService):
    """Has a defect."""

    def __init__(self, service: LocalService) -> None:
        self.__dict__.update(service.__dict__)

    async def get_data(self, topic: str | None = None) -> NoReturn:
        raise RuntimeError("secret")


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_refused_call_waits_for_a_collection(stub: MessagesStub) -> None:
    """A request has up to 8 MiB, and nobody has to be known to send one: a thousand would fill the memory."""
    before = alive(TriviumError)
    conflict = [pb.Message(id="1", data=b"a"), pb.Message(id="1", data=b"b")]
    for refused in (pb.PublishRequest(topic="?"), pb.PublishRequest(topic="t", messages=conflict)):
        await failure(stub.Publish(refused))
        await until(lambda: alive(TriviumError) <= before)


async def test_a_defect_is_internal_and_logged_once(service: LocalService, health: Health, settings: Settings) -> None:
    """The caller learns nothing of the inside, the log has the cause."""
    async with GrpcDoor(OpenGate(BrokenService(service), settings), health, settings) as door, connect(door) as channel:
        with capture_logs() as logs:
            failed = await failure(MessagesStub(channel).GetData(pb.GetDataRequest()))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in failed.text
    assert [(line["event"], line["rpc"]) for line in logs if line["log_level"] == "error"] == [
        ("a call failed", "trivium.v1.Messages/GetData")
    ]
