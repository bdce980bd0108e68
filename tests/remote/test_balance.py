"""A name that stands for several cores."""

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from typing import cast

import pytest

from core.remote.links import Unreachable
from core.settings import Settings
from tests.remote.conftest import Core
from tests.remote.proxy import Proxy
from transports.grpc.remote import GrpcLink
from transports.rest.remote import HttpLink

NAME = "cores.test"
HOSTS = ("127.0.0.1", "127.0.0.2")


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for A records with all `HOSTS` (RFC 1035), and other questions with nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\x00", 12) + 5
        question = data[12:end]
        hosts = HOSTS if question[-4:-2] == b"\x00\x01" else ()
        head = data[:2] + b"\x81\x80\x00\x01" + len(hosts).to_bytes(2, "big") + b"\x00\x00\x00\x00"
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
        answers = b"".join(record + socket.inet_aton(host) for host in hosts)
        self._transport.sendto(head + question + answers, addr)


@pytest.fixture
async def proxies(core: Core, stack: AsyncExitStack, request: pytest.FixtureRequest) -> list[Proxy]:
    """One on each of `HOSTS`, all on one port."""
    target = core.proxy(request.param).target
    first = await stack.enter_async_context(Proxy(target, host=HOSTS[0]))
    second = Proxy(target, host=HOSTS[1])
    second.port = first.port
    return [first, await stack.enter_async_context(second)]


@pytest.mark.parametrize("proxies", ["grpc"], indirect=True)
async def test_grpc_calls_go_to_all_records_in_turn(proxies: list[Proxy], stack: AsyncExitStack) -> None:
    """Each gets its share of the calls over one connection; one that is gone is left out."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(NameServer, ("127.0.0.1", 0))
    stack.callback(transport.close)
    link = GrpcLink(f"grpc://{NAME}:{proxies[0].port}", Settings())
    link._target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/{NAME}:{proxies[0].port}"
    await stack.enter_async_context(link)
    core = link.on_behalf_of(None)
    async with asyncio.timeout(20):
        while not all(proxy.connections for proxy in proxies):
            with suppress(Unreachable):
                await core.get_data("t")
        await proxies[0].close()
        answered = 0
        while answered < 5:
            try:
                await link.probe()
                answered += 1
            except Unreachable:  # sent before the channel had heard that this connection is gone
                answered = 0
    assert proxies[1].connections == 1


@pytest.mark.parametrize("proxies", ["rest"], indirect=True)
async def test_http_connections_go_to_all_records_in_turn(
    proxies: list[Proxy], stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its share of the connections; one that is gone is left out."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: int, **kwargs: int) -> list[object]:
        names = HOSTS if host == NAME else (host,)
        return [found for name in names for found in real(name, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    link = await stack.enter_async_context(HttpLink(f"http://{NAME}:{proxies[0].port}", Settings()))
    core = link.on_behalf_of(None)
    await asyncio.gather(*(core.get_data("t") for _ in range(10)))
    # at least: the client tries the next address too where one has not answered after 0.25 s
    assert all(proxy.connections >= 5 for proxy in proxies)
    await proxies[0].close()
    await asyncio.gather(*(link.probe() for _ in range(10)))
