"""Loads a server from the other core with wrk, h2load or a program of `bench.clients`, and reads what they found."""

import json
import re
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.figures import Sample, percentile
from bench.ground import Ground
from bench.servers import HOST, OURS, ROOT, Server, on_core

#: What a tool may take beyond the time that it was given.
_GRACE_SECONDS = 60.0
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m),", re.MULTILINE)
_REQUESTS = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", re.MULTILINE)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class LoadFailed(Exception):
    """A tool failed, or what it loaded refused requests: its figures would mean nothing."""


class Requests(Struct, frozen=True, kw_only=True):
    """What wrk sends. `{n}` in the path runs through `count` multiples of `step`; `{id}` in the body is always new.

    With `keyed`, so is an `Idempotency-Key`: no head is like another.
    """

    path: str
    body: bytes = b""
    content_type: str = ""
    count: int = 1
    step: int = 1
    #: An API key or a token.
    credential: str = ""
    keyed: bool = False

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


class Ran(Struct, frozen=True):
    """A program that came to its end: what it printed, and which share of its time it had the CPU."""

    text: str
    share: float


def wrk(
    ground: Ground, server: Server, port: int, requests: Requests, *, connections: int, seconds: float, each: int = 1
) -> Sample:
    """HTTP/1.1 with as many requests in flight as there are connections; a request carries `each` messages."""
    body = ""
    if requests.body:
        path = ground.fresh("body")
        path.write_bytes(requests.body)
        body = str(path)
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={_whole(seconds)}s", "--timeout=20s"]
    command += [f"--script={ROOT / 'bench/load.lua'}", f"http://{HOST}:{port}{requests.path.partition('{')[0]}", "--"]
    command += [requests.method, requests.path, requests.content_type, body, str(requests.count), str(requests.step)]
    command += ["keyed"] * requests.keyed
    if requests.credential:
        command.insert(1, f"--header=Authorization: Bearer {requests.credential}")
    before = server.cpu_seconds()
    ran = run(ground, command, seconds)
    return _per_message(wrk_sample(ran.text), wrk_count(ran.text), server.cpu_seconds() - before, each, ran)


def wrk_sample(text: str) -> Sample:
    """The figures that load.lua prints at the end. Raises `LoadFailed` if requests failed."""
    found = figures(text)
    if not found["requests"]:
        raise LoadFailed("no request was answered")
    if found["refused"] or found["broken"] > found["requests"] / 1000:
        raise LoadFailed(f"of {found['requests']} requests {found['refused']} were refused, {found['broken']} broken")
    return Sample(rate=found["requests"] / found["seconds"], p50_ms=found["p50_ms"], p99_ms=found["p99_ms"])


def wrk_count(text: str) -> int:
    return int(figures(text)["requests"])


def h2load(
    ground: Ground,
    server: Server,
    port: int,
    path: str,
    frame: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float,
    each: int = 1,
    stored: Callable[[], int] | None = None,
) -> Sample:
    """Unary gRPC with a prebuilt frame, `connections` times `streams` in flight.

    h2load does not look at `grpc-status`: `stored` tells how many messages there are, to see that calls had an effect.
    """
    data, log = ground.fresh("frame"), ground.fresh("requests.log")
    data.write_bytes(frame)
    command = ["h2load", "--threads=1", f"--clients={connections}", f"--max-concurrent-streams={streams}"]
    command += [f"--duration={_whole(seconds)}", f"--data={data}", f"--log-file={log}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers", f"http://{HOST}:{port}{path}"]
    stored_before = stored() if stored else 0
    before = server.cpu_seconds()
    ran = run(ground, command, seconds)
    used = server.cpu_seconds() - before
    count = h2load_count(ran.text)
    if stored and (grown := stored() - stored_before) < count * each:
        raise LoadFailed(f"{count} calls of {each} messages were answered, {grown} messages were stored")
    sample = h2load_sample(ran.text, log.read_text())
    log.unlink()
    return _per_message(sample, count, used, each, ran)


def h2load_count(text: str) -> int:
    """The requests that were answered. Raises `LoadFailed` if one was refused."""
    if (found := _REQUESTS.search(text)) is None:
        raise LoadFailed(f"h2load: {text[-500:]}")
    done, *others = map(int, found.groups())
    if any(others) or not done:
        raise LoadFailed(f"status codes: {found[0]}")
    return done


def h2load_sample(text: str, log: str) -> Sample:
    """The rate that h2load tells, and latencies from its log: a line is start, status and microseconds."""
    if (finished := _FINISHED.search(text)) is None:
        raise LoadFailed(f"h2load: {text[-500:]}")
    seconds = float(finished[1]) * _UNITS[finished[2]]
    times = sorted(int(line.split("\t")[2]) for line in log.splitlines())
    return Sample(
        rate=h2load_count(text) / seconds, p50_ms=percentile(times, 0.5) / 1e3, p99_ms=percentile(times, 0.99) / 1e3
    )


def client(ground: Ground, name: str, *arguments: object, seconds: float) -> dict[str, Any]:
    """Run `bench.clients.NAME` on the load core; the figures it prints, and `load_share`."""
    ran = run(ground, client_command(name, *arguments), seconds)
    return figures(ran.text) | {"load_share": ran.share}


def client_command(name: str, *arguments: object) -> list[str]:
    return [str(OURS), "-m", f"bench.clients.{name}", *map(str, arguments)]


def run(ground: Ground, command: Sequence[str | Path], seconds: float, core: int | None = None) -> Ran:
    """Run the command to its end, on the load core unless told otherwise. Raises `LoadFailed`."""
    begun, used = time.perf_counter(), _children_seconds()
    try:
        done = subprocess.run(
            on_core(ground.load_core if core is None else core, command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + _GRACE_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise LoadFailed(f"{command[0]}: {error.stdout[-500:]}{error.stderr[-1500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{command[0]} did not end in time") from error
    return Ran(done.stdout, (_children_seconds() - used) / (time.perf_counter() - begun))


def _children_seconds() -> float:
    """CPU time of what we started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _per_message(sample: Sample, requests: int, cpu_seconds: float, each: int, ran: Ran) -> Sample:
    return Sample(
        rate=sample.rate * each if sample.rate is not None else None,
        p50_ms=sample.p50_ms,
        p99_ms=sample.p99_ms,
        cpu_us=cpu_seconds * 1e6 / requests / each,
        load_share=ran.share,
    )


def figures(text: str) -> dict[str, Any]:
    """What a program printed on its last line, in JSON. Raises `LoadFailed`."""
    try:
        found: dict[str, Any] = json.loads(text.strip().rpartition("\n")[2])
    except json.JSONDecodeError as error:
        raise LoadFailed(f"no figures in: {text[-500:]}") from error
    return found


def _whole(seconds: float) -> int:
    """wrk and h2load know whole seconds only."""
    return max(1, round(seconds))
