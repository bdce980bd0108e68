"""The gRPC door over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.pki import HOST, Pki, resumed, serial_of
from tests.tls.conftest import rotated, until
from tools.certs import Pair
from transports.grpc.door import GrpcDoor
from transports.grpc.tls import credentials, peer_names
from transports.tls.certificates import Certificates
from transports.tls.clients import ClientCertificate

#: Connections of a channel's own; and no wait for another attempt, where one was refused.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = pb.PublishRequest(topic="t", messages=[pb.Message(data=b"x")])


@pytest.fixture
async def door(
    service: LocalService, health: Health, settings: Settings, served: Certificates
) -> AsyncIterator[GrpcDoor]:
    async with GrpcDoor(OpenGate(service, settings), health, settings, served) as door:
        yield door


def channel(door: GrpcDoor, pki: Pki, client: Pair | None = None) -> Any:
    """A connection that nobody else shares."""
    own = (client.key, client.certificate) if client else (None, None)
    return grpc.aio.secure_channel(
        door.address, grpc.ssl_channel_credentials(pki.ours.certificate, *own), options=OPTIONS
    )


async def publish(door: GrpcDoor, pki: Pki, client: Pair | None = None) -> int:
    """The offset, got on a new connection."""
    async with channel(door, pki, client) as opened:
        answer: pb.PublishResponse = await MessagesStub(opened).Publish(REQUEST, timeout=30)
        return answer.messages[0].offset


async def test_a_client(door: GrpcDoor, pki: Pki) -> None:
    """Publishes and follows."""
    async with channel(door, pki) as opened:
        stub = MessagesStub(opened)
        await stub.Publish(REQUEST)
        follow = stub.Follow(pb.FollowRequest(topic="t", after=0))
        batches = [await follow.read() for _ in range(2)]
        assert [message.data for batch in batches for message in batch.messages] == [b"x"]
        follow.cancel()


async def test_plain_text_is_refused(door: GrpcDoor) -> None:
    """There is no port that takes both."""
    async with grpc.aio.insecure_channel(door.address, options=OPTIONS) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await MessagesStub(opened).Publish(REQUEST, timeout=30)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def serial_at(door: GrpcDoor, context: ssl.SSLContext) -> int:
    """Of the certificate that a new connection gets."""
    host, port = door.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    number = serial_of(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    return number


class TestMutual:
    """Clients need a certificate of `ours`."""

    @pytest.fixture
    async def door(
        self, service: LocalService, health: Health, settings: Settings, mutual: Certificates
    ) -> AsyncIterator[GrpcDoor]:
        async with GrpcDoor(OpenGate(service, settings), health, settings, mutual) as door:
            yield door

    async def test_who_is_let_in(self, door: GrpcDoor, pki: Pki) -> None:
        """Nobody without a certificate, nor with one of another authority, of a server, or from the past."""
        assert await publish(door, pki, pki.ours.client("orders")) == 1
        strangers = [
            None,
            pki.other.client("orders"),
            pki.ours.server("orders"),
            pki.ours.client("orders", days=-1),
        ]
        for stranger in strangers:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await publish(door, pki, stranger)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_authorities_are_rotated(self, door: GrpcDoor, pki: Pki, mutual: Certificates) -> None:
        """Who is trusted no longer can't connect, not even with a session from before; open connections stay."""
        client, other = pki.ours.client("orders"), pki.other.client("orders")
        context = pki.context(client)
        context.set_alpn_protocols(["h2"])
        port = int(door.address.rpartition(":")[2])
        session, _ = await asyncio.to_thread(resumed, context, port, None, PREFACE)
        assert (await asyncio.to_thread(resumed, context, port, session, PREFACE))[1]
        async with channel(door, pki, client) as kept:
            assert (await MessagesStub(kept).Publish(REQUEST)).messages[0].offset == 1
            pki.ca.write_bytes(pki.other.certificate)
            old = mutual.current
            await until(lambda: mutual.current is not old)
            assert await publish(door, pki, other) == 2
            assert (await MessagesStub(kept).Publish(REQUEST)).messages[0].offset == 3
            with pytest.raises(grpc.aio.AioRpcError):
                await publish(door, pki, client)
            with pytest.raises(OSError, match=r"UNKNOWN_CA|CERTIFICATE|reset|closed"):
                await asyncio.to_thread(resumed, context, port, session, PREFACE)

    async def test_what_the_file_holds_is_trusted(self, door: GrpcDoor, pki: Pki, mutual: Certificates) -> None:
        """Be it a part of the tree, or a client's own certificate, whose authority is not trusted."""
        client = pki.other.client("orders")
        pki.ca.write_bytes(client.certificate)
        old = mutual.current
        await until(lambda: mutual.current is not old)
        assert await publish(door, pki, client) == 1


@pytest.mark.parametrize("asks", [True, False])
async def test_a_handler_hears_who_it_is(pki: Pki, settings: Settings, health: Health, asks: bool) -> None:
    """From the context of the call; nobody, where no certificate is asked for."""
    found: list[ClientCertificate | None] = []

    async def handle(_: bytes, context: Any) -> bytes:
        found.append(peer_names(context))
        return b""

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s.S", {"M": handler}),))
    served = Certificates(pki.settings(settings, mutual=asks), health)
    port = server.add_secure_port(f"{HOST}:0", credentials(served))
    await server.start()
    pair = pki.ours.client("orders", "orders.example")
    secure = grpc.ssl_channel_credentials(pki.ours.certificate, pair.key, pair.certificate)
    opened: Any = grpc.aio.secure_channel(f"{HOST}:{port}", secure, options=OPTIONS)
    async with opened:
        await opened.unary_unary("/s.S/M")(b"", timeout=30)
    await server.stop(None)
    assert found == [ClientCertificate("CN=orders", ("DNS:orders.example",)) if asks else None]


async def test_rotation_under_load(door: GrpcDoor, pki: Pki, served: Certificates) -> None:
    """Twenty new certificates while calls flow on kept and on new connections: none fails, all are seen."""
    done = asyncio.Event()
    counts = {"kept": 0, "new": 0}

    async def kept() -> None:
        async with channel(door, pki) as opened:
            while not done.is_set():
                await MessagesStub(opened).Publish(REQUEST, timeout=30)
                counts["kept"] += 1

    async def new() -> None:
        while not done.is_set():
            await publish(door, pki)
            counts["new"] += 1

    context = pki.context()
    context.set_alpn_protocols(["h2"])
    async with asyncio.TaskGroup() as group:
        for task in (kept, kept, new, new):
            group.create_task(task())
        for _ in range(20):
            number = await rotated(pki, served)
            assert await serial_at(door, context) == number
            before = dict(counts)
            await until(lambda before=before: all(counts[kind] > before[kind] + 1 for kind in counts))  # type: ignore[misc]  # mypy can't type the default
        await until(lambda: min(counts.values()) > 200)
        done.set()
