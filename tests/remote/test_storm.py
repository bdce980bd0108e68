"""What arrives at a core that is down."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from core import deadlines
from core.errors import DeadlineExceeded, Unavailable
from core.messages import new_message
from tests.remote.conftest import PATIENCE_SECONDS, Core, start_edge

#: The outage of this test is short; tests/e2e/edges.py has a long one.
CALLERS = 20
CALLS_EACH = 50


class DownCore:
    """Listens, reads what comes and hangs up, but may answer probes; counts the requests that arrive."""

    def __init__(self, *, answers_probes: bool) -> None:
        self.requests = 0
        self.connections = 0
        self._answers_probes = answers_probes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        request = await reader.read(65536)
        if request.startswith((b"GET /api", b"POST /api")):
            self.requests += 1
        elif request.startswith(b"GET /livez") and self._answers_probes:
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()


@pytest.mark.parametrize("answers_probes", [False, True])
@pytest.mark.parametrize("protocols", ["grpc", "rest", "grpc rest"])
async def test_an_outage_is_not_answered_with_more_load(
    core: Core, stack: AsyncExitStack, protocols: str, answers_probes: bool
) -> None:
    """At most 1.1 times as many attempts arrive as calls are made, probes and connections included.

    Also where the breaker closes again and again, because what is there answers probes and nothing else.
    """
    down = DownCore(answers_probes=answers_probes)
    server = await stack.enter_async_context(await asyncio.start_server(down.serve, "127.0.0.1", 0))
    addresses = ",".join(core.address(protocol) for protocol in protocols.split())
    edge = await start_edge(stack, addresses, core_seconds=1.0)
    async with deadlines.until(asyncio.get_running_loop().time() + PATIENCE_SECONDS):
        await asyncio.gather(*(edge.service.get_data("t") for _ in range(CALLERS)))
    refused = 0

    async def call() -> None:
        nonlocal refused
        for number in range(CALLS_EACH):
            try:
                if number % 2:
                    await edge.service.get_message("t", 1)
                else:
                    await edge.service.publish("t", [new_message(b"x")])
            except (Unavailable, DeadlineExceeded):
                refused += 1
            await asyncio.sleep(0.02)  # so that the outage lasts for a while

    for proxy in (core.grpc, core.rest):
        proxy.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await proxy.cut()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    calls = CALLERS * CALLS_EACH
    assert refused == calls
    assert down.requests <= 1.1 * calls
    assert down.connections <= 1.1 * calls
    print(f"{protocols}: {calls} calls, {down.requests} requests, {down.connections} connections arrived")
