"""How each server is started: Trivium and its peers."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.request import urlopen

from msgspec import Struct

from bench import loads
from bench.figures import Sample
from bench.ground import Ground
from bench.servers import HOST, OURS, PEERS, Command, Server, free_port, started


class Service(Struct, frozen=True):
    """A server that is up, and its ports; 0 for one that it does not have."""

    server: Server
    rest: int = 0
    grpc: int = 0

    def stored(self) -> int:
        """How many messages a Trivium holds, as its REST door tells it; of the first thousand topics."""
        with urlopen(f"http://{HOST}:{self.rest}/api/topics?limit=1000", timeout=20) as answer:
            return sum(topic["head"] for topic in json.load(answer)["topics"])


#: Starts one, for as long as the context is open.
Start: TypeAlias = Callable[[Ground], AbstractContextManager[Service]]


def trivium(*arguments: str, folder: Path | None = None, program: tuple[str, ...] = ("main.py",)) -> Start:
    """Trivium as its users start it, with a folder of its own unless one is given."""

    @contextmanager
    def start(ground: Ground) -> Iterator[Service]:
        rest, grpc = free_port(), free_port()
        command: Command = [
            OURS,
            *program,
            f"--rest-port={rest}",
            f"--grpc-port={grpc}",
            "--log-level=warning",
            "--admin-port=0",
            *arguments,
        ]
        if "no_store" not in program[-1]:
            command.append(f"--data-dir={folder or ground.fresh('data')}")
        with started(command, ground.server_core, ground.fresh("trivium.log")) as server:
            server.await_answer(rest, "/readyz")
            yield Service(server, rest, grpc)

    return start


#: Without the broker, which only some cases have.
ALONE = trivium("--no-amqp")
UNWATCHED = trivium("--no-amqp", program=("-m", "bench.unwatched"))
UNLOGGED = trivium("--no-amqp", program=("-m", "bench.unlogged"))
NO_STORE = trivium("--no-amqp", program=("-m", "bench.no_store"))


def uvicorn(app: str, **environment: str) -> Start:
    return _http(
        "uvicorn",
        app,
        *("--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning"),
        *(f"--host={HOST}", "--port={port}"),
        **environment,
    )


def granian(app: str) -> Start:
    return _http(
        "granian",
        app,
        *("--interface=asgi", "--loop=uvloop", "--workers=1", "--runtime-threads=1", "--log-level=warning"),
        *("--no-ws", f"--host={HOST}", "--port={port}"),
    )


def hypercorn(app: str) -> Start:
    return _http("hypercorn", app, "--worker-class=uvloop", "--log-level=warning", f"--bind={HOST}:{{port}}")


def gunicorn(app: str) -> Start:
    """One process with four threads did best, against 8, 32, three processes, and workers without threads."""
    return _http(
        "gunicorn",
        app,
        *("--worker-class=gthread", "--workers=1", "--threads=4", "--keep-alive=60", "--log-level=warning"),
        f"--bind={HOST}:{{port}}",
    )


def flask_alone(app: str) -> Start:
    return _http("flask", f"--app={app}", "run", "--no-debugger", "--no-reload", f"--host={HOST}", "--port={port}")


def grpc_peer(module: str, **environment: str) -> Start:
    """A program of `bench.peers` that takes its gRPC port as an argument."""

    @contextmanager
    def start(ground: Ground) -> Iterator[Service]:
        port = free_port()
        variables = {"DATABASE": str(ground.fresh("peer.db"))} | environment
        command: Command = [PEERS / "python", "-m", f"bench.peers.{module}", str(port)]
        with started(command, ground.server_core, ground.fresh(f"{module}.log"), **variables) as server:
            server.await_port(port)
            yield Service(server, grpc=port)

    return start


def one_shot(ground: Ground, module: str, *arguments: object, seconds: float) -> Sample:
    """A program of `bench.peers` that does its work on the server's core, ends, and tells what it took."""
    command = [str(PEERS / "python"), "-m", f"bench.peers.{module}", *map(str, arguments)]
    return sample_of(loads.figures(loads.run(ground, command, seconds, ground.server_core).text))


def sample_of(found: dict[str, Any]) -> Sample:
    """From what a program printed: count, seconds and, where it is known, CPU seconds and latencies."""
    cpu = found.get("cpu_seconds")
    return Sample(
        rate=found["count"] / found["seconds"],
        p50_ms=found.get("p50_ms"),
        p99_ms=found.get("p99_ms"),
        cpu_us=None if cpu is None else cpu * 1e6 / found["count"],
        load_share=found.get("load_share"),
    )


def _http(program: str, *arguments: str, **environment: str) -> Start:
    @contextmanager
    def start(ground: Ground) -> Iterator[Service]:
        port = free_port()
        command: Command = [PEERS / program, *(one.replace("{port}", str(port)) for one in arguments)]
        variables = {"DATABASE": str(ground.fresh("peer.db"))} | environment
        with started(command, ground.server_core, ground.fresh(f"{program}.log"), **variables) as server:
            server.await_port(port)
            yield Service(server, rest=port)

    return start
