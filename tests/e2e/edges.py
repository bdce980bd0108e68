"""Two edges under load, and a core that is killed, frozen, half closed and slow: what do clients see?

python -m tests.e2e.edges [--kills 20] [--frozen-seconds 5] ...    prints figures, and fails on a broken promise
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc.aio
import httpx2
from msgspec import Struct
from msgspec.structs import asdict

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.clients import Publish, grpc_publisher, rest_publisher, whole_topic
from tests.e2e.process import TriviumProcess, trivium_process
from tests.remote.proxy import Proxy

#: A client that is told to come back does so after this; the outage is what is measured, not its patience.
_AGAIN_SECONDS = 0.05

#: Begins or ends a fault.
Change = Callable[[], Awaitable[None] | None]


class Plan(Struct, frozen=True, kw_only=True):
    """What happens to the core, in this order; between two faults so many messages are acknowledged."""

    kills: int = 20
    down_seconds: float = 30.0
    frozen_seconds: float = 5.0
    half_closed_seconds: float = 5.0
    trickle_seconds: float = 5.0
    messages_between: int = 200


class Phase(Struct):
    """What publishers met from one fault to the next."""

    attempts: int = 0
    errors: int = 0
    longest_seconds: float = 0.0


class Figures:
    """What the clients saw."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {"undisturbed": Phase()}
        self.now = self.phases["undisturbed"]
        self.acknowledged: dict[str, list[str]] = {}
        self.reads = 0
        self.stale = 0
        self.read_errors = 0
        self.oldest_seconds = 0
        self.followed: dict[str, list[int]] = {}
        self.calls_while_down = 0
        self.arrived_while_down = 0

    @property
    def calls(self) -> int:
        """All that clients asked of the edges."""
        return self.reads + sum(phase.attempts for phase in self.phases.values())

    def begin(self, name: str) -> None:
        self.now = self.phases.setdefault(name, Phase())

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def lines(self) -> list[str]:
        lines = [
            f"{name:22} {phase.attempts:6} publishes  {phase.errors:5} failed ({phase.errors / phase.attempts:6.2%})"
            f"  longest outage {phase.longest_seconds:5.2f} s"
            for name, phase in self.phases.items()
            if phase.attempts
        ]
        lines.append(
            f"while it was down: {self.calls_while_down} calls, {self.arrived_while_down} attempts and probes arrived"
        )
        lines.append(
            f"reads of the newest: {self.reads}, stale {self.stale} (oldest {self.oldest_seconds} s), "
            f"failed {self.read_errors}"
        )
        return lines


class Clients:
    """Publishers that repeat until they are told yes, readers, and followers that never come back."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.ended = asyncio.Event()

    async def publish(self, name: str, publish: Publish) -> None:
        """One message after another, each with the same id until it is acknowledged."""
        done = self.figures.acknowledged[name]
        while not self.ended.is_set():
            id_ = f"{name}-{len(done):06d}"
            began = time.monotonic()
            while not await self._attempt(publish, id_):  # noqa: ASYNC110 - as a client does
                await asyncio.sleep(_AGAIN_SECONDS)
            phase = self.figures.now
            phase.longest_seconds = max(phase.longest_seconds, time.monotonic() - began)
            done.append(id_)

    async def _attempt(self, publish: Publish, id_: str) -> bool:
        try:
            await publish(id_)
        except (httpx2.HTTPError, grpc.aio.AioRpcError) as error:
            _expect_a_passing_error(error)
            self.figures.now.errors += 1
            return False
        finally:
            self.figures.now.attempts += 1
        return True

    async def read(self, base_url: str) -> None:
        """The newest message, now and then; counts what is marked as stale."""
        async with httpx2.AsyncClient(base_url=base_url, timeout=60) as http:
            while not self.ended.is_set():
                answer = await http.get("/api/data?topic=t")
                self.figures.reads += 1
                if answer.is_error:
                    self.figures.read_errors += 1
                elif "warning" in answer.headers:
                    self.figures.stale += 1
                    self.figures.oldest_seconds = max(self.figures.oldest_seconds, int(answer.headers["age"]))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def follow_sse(self, name: str, base_url: str) -> None:
        """Offsets until the stream ends, which it does when the edge stops."""
        seen = self.figures.followed.setdefault(name, [])
        address = urlsplit(base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"GET /api/topics/t/stream?after=0 HTTP/1.1\r\nhost: {address.netloc}\r\n\r\n".encode())
        try:
            await reader.readuntil(b"id: 0\n\n")
            while line := await reader.readline():
                if line.startswith(b"id:"):
                    seen.append(int(line[3:]))
        finally:
            writer.close()

    async def follow_grpc(self, name: str, target: str) -> None:
        seen = self.figures.followed.setdefault(name, [])
        async with grpc.aio.insecure_channel(target) as channel:
            async for answer in MessagesStub(channel).Follow(pb.FollowRequest(topic="t", after=0)):
                seen += [message.offset for message in answer.messages]

    async def progress(self, count: int) -> None:
        """Return once each publisher has its share of so many more messages acknowledged."""
        done = self.figures.acknowledged.values()
        goals = [len(ids) + count // len(done) for ids in done]
        while any(len(ids) < goal for ids, goal in zip(done, goals, strict=True)):  # noqa: ASYNC110 - they are many
            await asyncio.sleep(0.01)


def _expect_a_passing_error(error: Exception) -> None:
    """An edge that lives answers: with `unavailable` or `deadline_exceeded`, and when to come back."""
    if isinstance(error, httpx2.HTTPStatusError):
        assert error.response.status_code in (503, 504), error.response.text
        assert error.response.status_code == 504 or int(error.response.headers["retry-after"]) >= 1
    else:
        assert isinstance(error, grpc.aio.AioRpcError), error
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error


class Core:
    """The process with the store, behind two proxies whose addresses stay."""

    def __init__(self, data_dir: Path) -> None:
        self.grpc = Proxy("")
        self.rest = Proxy("")
        self._arguments = ("--no-amqp", f"--data-dir={data_dir}")
        self._stack = AsyncExitStack()
        self.process: TriviumProcess

    @property
    def addresses(self) -> tuple[str, str]:
        return f"grpc://{self.grpc.address}", f"http://{self.rest.address}"

    @property
    def connections(self) -> int:
        return self.grpc.connections + self.rest.connections

    async def start(self) -> None:
        self.process = await self._stack.enter_async_context(trivium_process(*self._arguments))
        self.grpc.target = self.process.grpc
        self.rest.target = self.process.rest.removeprefix("http://")

    async def kill(self) -> None:
        await self.process.end(signal.SIGKILL)
        await self._stack.aclose()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Core"]:
        await self.start()
        async with self.grpc, self.rest:
            try:
                yield self
            finally:
                await self._stack.aclose()


async def disturb(core: Core, clients: Clients, plan: Plan) -> None:
    """The faults, one after another."""
    figures = clients.figures
    await clients.progress(plan.messages_between)
    figures.begin(f"killed {plan.kills} times")
    for _ in range(plan.kills):
        await core.kill()
        await core.start()
        await clients.progress(plan.messages_between)
    await _down(core, clients, plan.down_seconds)
    await clients.progress(plan.messages_between)
    faults: list[tuple[str, float, Change, Change]] = [
        ("frozen", plan.frozen_seconds, lambda: _send(core, signal.SIGSTOP), lambda: _send(core, signal.SIGCONT)),
        ("gRPC port closed", plan.half_closed_seconds, core.grpc.close, core.grpc.open),
        ("gRPC link trickles", plan.trickle_seconds, lambda: core.grpc.trickle(500), lambda: core.grpc.trickle(0)),
    ]
    for name, seconds, begin, end in faults:
        figures.begin(f"{name} for {seconds:g} s")
        if (begun := begin()) is not None:
            await begun
        await asyncio.sleep(seconds)  # the fault lasts: there is nothing to wait for
        if (ended := end()) is not None:
            await ended
        await clients.progress(plan.messages_between)


async def _down(core: Core, clients: Clients, seconds: float) -> None:
    """Take the core away for a while; its addresses take connections, which count as attempts, and hang up."""
    figures = clients.figures
    figures.begin(f"down for {seconds:g} s")
    await core.kill()
    calls, arrived = figures.calls, core.connections
    await asyncio.sleep(seconds)  # the fault lasts: there is nothing to wait for
    figures.calls_while_down = figures.calls - calls
    figures.arrived_while_down = core.connections - arrived
    await core.start()


def _send(core: Core, number: signal.Signals) -> None:
    core.process.process.send_signal(number)


async def run(plan: Plan, folder: Path) -> Figures:
    """Everything; raises `AssertionError` if a promise is broken."""
    clients = Clients(Figures())
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(Core(folder).running())
        by_grpc, by_rest = core.addresses
        edges = [
            await stack.enter_async_context(trivium_process(f"--core={by_grpc},{by_rest}")),
            await stack.enter_async_context(trivium_process(f"--core={by_rest},{by_grpc}")),
        ]
        followers: list[asyncio.Task[None]] = []
        publishers: list[asyncio.Task[None]] = []
        for number, edge in enumerate(edges):
            followers.append(asyncio.create_task(clients.follow_sse(f"sse-{number}", edge.rest)))
            followers.append(asyncio.create_task(clients.follow_grpc(f"grpc-{number}", edge.grpc)))
            rest = await stack.enter_async_context(rest_publisher(edge.rest, "t"))
            stub = await stack.enter_async_context(grpc_publisher(edge.grpc, "t"))
            for name, publish in ((f"rest-{number}", rest), (f"grpc-{number}", stub)):
                clients.figures.acknowledged[name] = []
                publishers.append(asyncio.create_task(clients.publish(name, publish)))
            publishers.append(asyncio.create_task(clients.read(edge.rest)))
        await disturb(core, clients, plan)
        clients.ended.set()
        for task in publishers:
            await task
        stored = await whole_topic(core.process.rest, "t")
        for name, seen in clients.figures.followed.items():
            while len(seen) < len(stored):
                assert not any(task.done() for task in followers), f"{name}: a stream ended"
                await asyncio.sleep(0.01)
        for edge in edges:
            assert await edge.end(signal.SIGTERM) == 0
        for task in followers:
            await task
    check(clients.figures, stored)
    return clients.figures


def check(figures: Figures, stored: list[dict[str, str]]) -> None:
    """Nothing acknowledged is lost or twice there, each publisher's order is kept, followers saw each offset once."""
    ids = [one["id"] for one in stored]
    assert [int(one["offset"]) for one in stored] == list(range(1, len(stored) + 1))
    assert len(ids) == len(set(ids)), "a message is there twice"
    place = {id_: index for index, id_ in enumerate(ids)}
    for done in figures.acknowledged.values():
        places = [place[id_] for id_ in done]
        assert places == sorted(places)
    for name, seen in figures.followed.items():
        assert seen == list(range(1, len(stored) + 1)), f"{name} saw a gap or a repetition"
    assert figures.arrived_while_down <= 1.1 * figures.calls_while_down, "the outage was answered with more load"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.edges", description=__doc__)
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(run(plan, Path(folder)))
    print(f"{figures.count} messages acknowledged, 0 lost, 0 twice, order kept, streams without a gap")
    print("\n".join(figures.lines()))


if __name__ == "__main__":
    main()
