"""A thousand followers of one topic."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench import loads, programs
from bench.contests import Case, Contestant, Work
from bench.figures import Sample, Target
from bench.ground import Ground
from bench.programs import Service, Start, sample_of
from bench.servers import ROOT, on_core

FOLLOWERS, FEW = 1000, 100
SIZE = 256
SSE, GRPC, PLAIN = "Trivium, SSE", "Trivium, gRPC", "starlette and sse-starlette on uvicorn"
SSE_FEW, GRPC_FEW = "Trivium, SSE, 100 followers", "Trivium, gRPC, 100 followers"
_WAIT_SECONDS = 180.0
#: What each contestant gets to deliver in a second that it is given, at least in the order of magnitude.
_DELIVERIES = 50_000


def followed(start: Start, kind: str, followers: int = FOLLOWERS) -> Contestant:
    """Followers come, wait, get what is published, and go; each round anew."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        with start(ground) as service:
            before, _ = service.server.memory_mib()
            yield lambda seconds: _round(ground, service, kind, followers, seconds, before)

    return contestant


def _round(ground: Ground, service: Service, kind: str, followers: int, seconds: float, before_mib: float) -> Sample:
    server = service.server
    messages = max(20, int(_DELIVERIES * seconds) // followers)
    port = service.rest if kind == "sse" else service.grpc
    arguments = (kind, followers, messages, SIZE, service.rest, port)
    client = subprocess.Popen(
        on_core(ground.load_core, loads.client_command("fan_out", *arguments)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert client.stdout is not None
        opened = client.stdout.readline()
        per_follower = (server.memory_mib()[0] - before_mib) * 1024 / followers
        cpu = server.cpu_seconds()
        printed, errors = client.communicate("go\n", timeout=_WAIT_SECONDS)
    except (BrokenPipeError, subprocess.TimeoutExpired) as error:
        raise loads.LoadFailed(f"fan_out: {error}") from error
    finally:
        client.kill()
        client.wait()
    if client.returncode or opened != "open\n":
        raise loads.LoadFailed(f"fan_out: {errors[-1500:]}")
    found = loads.figures(printed)
    found["cpu_seconds"] = server.cpu_seconds() - cpu
    return msgspec.structs.replace(sample_of(found), follower_kib=per_follower)


CASES = (
    Case(
        name="fan-out",
        title="fan-out of one topic to 1,000 followers, 256 B",
        unit="deliveries/s",
        contestants={
            SSE: followed(programs.ALONE, "sse"),
            GRPC: followed(programs.ALONE, "grpc"),
            PLAIN: followed(programs.uvicorn("bench.peers.sse_app:app"), "sse"),
            SSE_FEW: followed(programs.ALONE, "sse", FEW),
            GRPC_FEW: followed(programs.ALONE, "grpc", FEW),
        },
        targets=(
            Target(text="SSE: 2x plain starlette and sse-starlette", ours=SSE, theirs=(PLAIN,), at_least=2.0),
            Target(text="gRPC: 2x plain starlette and sse-starlette", ours=GRPC, theirs=(PLAIN,), at_least=2.0),
            *(
                Target(
                    text=f"{kind}: CPU per delivery to 1,000 followers at most 1.25x that to 100",
                    ours=many,
                    theirs=(few,),
                    measure="cpu_us",
                    at_most=1.25,
                )
                for kind, many, few in (("SSE", SSE, SSE_FEW), ("gRPC", GRPC, GRPC_FEW))
            ),
        ),
    ),
)
