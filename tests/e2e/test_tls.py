"""TLS in a process of its own, as users run it: what gRPC reads of the environment is read once."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx2
import pytest

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.process import TriviumProcess, trivium_process
from tests.pki import Pki, serial_of

REQUEST = pb.PublishRequest(topic="t", messages=[pb.Message(data=b"x")])
#: By an alert, if it comes through before the connection ends.
REFUSED = (ssl.SSLError, ConnectionResetError)
#: The strong ones of TLS 1.2, as OpenSSL names them.
STRONG = ("ECDHE-ECDSA-AES128-GCM", "ECDHE-ECDSA-AES256-GCM", "ECDHE-ECDSA-CHACHA20")


@pytest.fixture
async def process(pki: Pki, request: pytest.FixtureRequest) -> AsyncIterator[TriviumProcess]:
    flags = getattr(request, "param", ())
    async with trivium_process("--no-amqp", "--data-dir=:memory:", *pki.flags(), *flags) as process:
        yield process


def addresses(process: TriviumProcess) -> list[tuple[str, int]]:
    rest = urlsplit(process.rest)
    host, port = process.grpc.split(":")
    return [(rest.hostname or "", rest.port or 0), (host, int(port))]


async def shaken(address: tuple[str, int], context: ssl.SSLContext) -> ssl.SSLObject:
    """After the handshake."""
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(*address, ssl=context)
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    return found


def only(pki: Pki, version: ssl.TLSVersion, ciphers: str = "DEFAULT:@SECLEVEL=0") -> ssl.SSLContext:
    context = pki.context()
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    return context


async def test_tls_1_2_is_refused(process: TriviumProcess, pki: Pki) -> None:
    """At both doors, where nothing else is set."""
    for address in addresses(process):
        assert (await shaken(address, only(pki, ssl.TLSVersion.TLSv1_3))).version() == "TLSv1.3"
        with pytest.raises(REFUSED):
            await shaken(address, only(pki, ssl.TLSVersion.TLSv1_2))


@pytest.mark.parametrize("process", [["--tls-min-version=1.2"]], indirect=True)
async def test_tls_1_2_can_be_allowed(process: TriviumProcess, pki: Pki) -> None:
    """With strong ciphers alone, and nothing older."""
    for address in addresses(process):
        assert (await shaken(address, pki.context())).version() == "TLSv1.3"
        old = await shaken(address, only(pki, ssl.TLSVersion.TLSv1_2))
        assert (old.cipher() or [""])[0].startswith(STRONG)
        with pytest.raises(REFUSED):
            await shaken(address, only(pki, ssl.TLSVersion.TLSv1_2, "ALL:!AESGCM:!CHACHA20:@SECLEVEL=0"))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context = only(pki, ssl.TLSVersion.TLSv1_1)
        with pytest.raises(REFUSED):
            await shaken(address, context)


async def test_sighup_under_load(process: TriviumProcess, pki: Pki) -> None:
    """Certificates are replaced while calls come on kept and on new connections: none fails, all are seen."""
    context = pki.context()
    done = asyncio.Event()
    counts = [0, 0, 0]

    def channel() -> Any:
        trusted = grpc.ssl_channel_credentials(pki.ours.certificate)
        return grpc.aio.secure_channel(process.grpc, trusted, options=[("grpc.use_local_subchannel_pool", 1)])

    async def rest() -> None:
        while not done.is_set():
            async with httpx2.AsyncClient(base_url=process.rest, verify=context, http2=True, timeout=30) as client:
                assert (await client.post("/api/topics/t/messages", content=b"x")).status_code == 201
                counts[0] += 1

    async def new_channels() -> None:
        while not done.is_set():
            async with channel() as opened:
                await MessagesStub(opened).Publish(REQUEST, timeout=30)
                counts[1] += 1

    async def kept_channel() -> None:
        async with channel() as opened:
            while not done.is_set():
                await MessagesStub(opened).Publish(REQUEST, timeout=30)
                counts[2] += 1

    async with asyncio.TaskGroup() as group:
        for work in (rest, new_channels, kept_channel):
            group.create_task(work())
        for _ in range(10):
            number = pki.rotate()
            process.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(30):
                for address in addresses(process):
                    while serial_of((await shaken(address, context)).getpeercert(binary_form=True)) != number:  # noqa: ASYNC110 - until the process has read it
                        await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            while min(counts) < 100:  # noqa: ASYNC110 - what is counted has no event
                await asyncio.sleep(0.01)
        done.set()
    assert await process.end(signal.SIGTERM) == 0
    assert not [line for line in process.lines if line.get("log.level") in ("warning", "error", "critical")]


async def test_strangers_leave_no_lines(process: TriviumProcess, pki: Pki) -> None:
    """Failed handshakes, and connections that end before a word, are anybody's to make; they do not fill the log."""
    for address in addresses(process):
        for _ in range(5):
            with pytest.raises(REFUSED):
                await shaken(address, ssl.create_default_context())
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.close()
            await shaken(address, pki.context())
    assert await process.end(signal.SIGTERM) == 0
    await process.closed()
    assert {line.get("log.level") for line in process.lines} == {"info"}
