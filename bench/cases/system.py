"""The whole service: doors beside each other, memory, start."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench import programs
from bench.cases.grpc import CONNECTIONS, PUBLISH, STREAMS, frame
from bench.cases.rest import http, publish, under_wrk
from bench.contests import TRIVIUM, Case, Work
from bench.figures import Sample, Target
from bench.ground import Ground
from bench.servers import HOST, OURS, PEERS, ROOT, Command, Server, free_port, on_core, started

ALONE, BESIDE = "Trivium, REST alone", "Trivium, REST under saturating gRPC"
SEED = "the seed: three processes"
_IDLE_SECONDS = 1.0
_LONG_SECONDS = 600
SIZE = 256


@contextmanager
def under_grpc(ground: Ground) -> Iterator[Work]:
    """REST is loaded as ever while h2load keeps 32 gRPC calls in flight."""
    data = ground.fresh("frame")
    data.write_bytes(frame(SIZE))
    with programs.ALONE(ground) as service:
        command = ["h2load", "--threads=1", f"--clients={CONNECTIONS}", f"--max-concurrent-streams={STREAMS}"]
        command += [f"--duration={_LONG_SECONDS}", f"--data={data}", "--header=content-type: application/grpc"]
        command += ["--header=te: trailers", f"http://{HOST}:{service.grpc}{PUBLISH}"]

        def work(seconds: float) -> Sample:
            beside = subprocess.Popen(on_core(ground.load_core, command), cwd=ROOT, stdout=subprocess.DEVNULL)
            try:
                found = under_wrk(ground, service, publish(SIZE), connections=32, seconds=seconds)
                service.server.require_alive()
            finally:
                beside.kill()
                beside.wait()
            return Sample(rate=found.rate, p50_ms=found.p50_ms, p99_ms=found.p99_ms)  # the CPU served both

        yield work


@contextmanager
def all_doors(ground: Ground) -> Iterator[Work]:
    """From the start of the process to the first answer of `GET /api/data`; then its memory when nothing happens."""
    prefix = ground.fresh("idle").name

    def work(_seconds: float) -> Sample:
        rest, grpc = free_port(), free_port()
        command: Command = [OURS, "main.py", f"--rest-port={rest}", f"--grpc-port={grpc}", "--log-level=warning"]
        command += [f"--amqp-url={ground.amqp_url}", f"--amqp-prefix={prefix}", f"--data-dir={ground.fresh('data')}"]
        begun = time.perf_counter()
        with started(command, ground.server_core, ground.fresh("trivium.log")) as server:
            server.await_answer(rest, "/api/data")
            answered = time.perf_counter() - begun
            return _idle(answered, server)

    yield work


@contextmanager
def seed(ground: Ground) -> Iterator[Work]:
    """Flask's own server, a synchronous grpcio server, a blocking pika producer and consumer."""
    queue = ground.fresh("seed").name

    def work(_seconds: float) -> Sample:
        database = str(ground.fresh("peer.db"))
        amqp: Command = [PEERS / "python", "-m", "bench.peers.seed_amqp", ground.amqp_url, queue]
        begun = time.perf_counter()
        with ExitStack() as stack:
            rest = stack.enter_context(programs.flask_alone("bench.peers.flask_app")(ground))
            rest.server.await_answer(rest.rest, "/api/data")
            answered = time.perf_counter() - begun
            grpc = stack.enter_context(programs.grpc_peer("grpc_sync", DATABASE=database)(ground))
            third = stack.enter_context(started(amqp, ground.server_core, ground.fresh("seed_amqp.log")))
            return _idle(answered, rest.server, grpc.server, third)

    yield work


def _idle(answered_seconds: float, *servers: Server) -> Sample:
    time.sleep(_IDLE_SECONDS)
    for server in servers:
        server.require_alive()
    resident, proportional = map(sum, zip(*(server.memory_mib() for server in servers), strict=True))
    return Sample(p50_ms=answered_seconds * 1e3, memory_mib=resident, pss_mib=proportional)


CASES = (
    Case(
        name="beside-grpc",
        title="REST p99 at 32 in flight under saturating gRPC, 256 B",
        contestants={
            ALONE: http(programs.ALONE, publish(SIZE), connections=32),
            BESIDE: under_grpc,
        },
        targets=(Target(text="p99 at most 2.5x alone", ours=BESIDE, theirs=(ALONE,), measure="p99_ms", at_most=2.5),),
    ),
    Case(
        name="idle",
        title="idle memory of all doors; time to first answer (as p50)",
        contestants={TRIVIUM: all_doors, SEED: seed},
        targets=(
            Target(
                text="memory at most 0.6x the seed's three processes",
                ours=TRIVIUM,
                theirs=(SEED,),
                measure="memory_mib",
                at_most=0.6,
            ),
            Target(
                text="first answer within 300 ms",
                ours=TRIVIUM,
                kind="value",
                measure="p50_ms",
                at_most=300.0,
                unit=" ms",
            ),
        ),
    ),
)
