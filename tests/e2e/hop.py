"""What the hop from an edge to its core costs, against a core with doors of its own, in one run.

python -m tests.e2e.hop [--rounds 5] [--calls 400]    prints time and CPU a call, and multiples of both
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc.aio

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.e2e.process import TriviumProcess, trivium_process

#: One call, as a client makes it.
Call = Callable[[], Awaitable[object]]

_IN_FLIGHT = 32
_BODY = b"x" * 256


async def calls_of(stack: AsyncExitStack, trivium: TriviumProcess) -> dict[str, Call]:
    """Reading and publishing through both doors."""
    http = await stack.enter_async_context(aiohttp.ClientSession(trivium.rest))
    stub = MessagesStub(await stack.enter_async_context(grpc.aio.insecure_channel(trivium.grpc)))

    async def rest_read() -> None:
        async with http.get("/api/data?topic=t") as answer:
            await answer.read()

    async def rest_publish() -> None:
        async with http.post("/api/topics/t/messages", data=_BODY) as answer:
            assert answer.status == 201

    async def grpc_read() -> None:
        await stub.GetData(pb.GetDataRequest(topic="t"))

    async def grpc_publish() -> None:
        await stub.Publish(pb.PublishRequest(topic="t", messages=[pb.Message(data=_BODY)]))

    return {"REST read": rest_read, "REST publish": rest_publish, "gRPC read": grpc_read, "gRPC publish": grpc_publish}


async def seconds_each(calls: Sequence[Call], count: int, in_flight: int) -> float:
    """Wall-clock seconds a call, `count` of them by so many callers in turn over `calls`."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await calls[number % len(calls)]()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.perf_counter() - began) / count


def cpu_seconds(processes: Sequence[TriviumProcess]) -> float:
    """What they have used so far (proc(5): utime and stime)."""
    fields = [Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split() for one in processes]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


async def measure(rounds: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            core = await stack.enter_async_context(trivium_process("--no-amqp", f"--data-dir={folder}"))
            links = (f"grpc://{core.grpc}", core.rest, f"grpc://{core.grpc}")
            edges = [await stack.enter_async_context(trivium_process(f"--core={link}")) for link in links]
            processes = [core, *edges]
            direct, over_grpc, over_rest, second = [await calls_of(stack, one) for one in processes]
            print(f"{'':14}{'in flight':>10}{'direct':>16}{'over gRPC':>14}{'over REST':>14}{'two edges':>14}")
            for name in direct:
                ways = ([direct[name]], [over_grpc[name]], [over_rest[name]], [over_grpc[name], second[name]])
                for in_flight in (1, _IN_FLIGHT):
                    times: list[list[float]] = []
                    cpu = [0.0] * len(ways)
                    for _ in range(rounds):
                        times.append([])
                        for index, way in enumerate(ways):
                            before = cpu_seconds(processes)
                            times[-1].append(await seconds_each(way, count, in_flight))
                            cpu[index] += cpu_seconds(processes) - before
                    print(f"{name:14}{in_flight:10}{_row(times, cpu, rounds * count)}")


def _row(times: list[list[float]], cpu: list[float], count: int) -> str:
    """Time and CPU a call; of the edges as multiples of the direct way, the times in the same round."""
    cells = [f"{statistics.median(one[0] for one in times) * 1e6:8.0f}/{cpu[0] / count * 1e6:4.0f} us"]
    for index in range(1, len(cpu)):
        ratio = statistics.median(one[index] / one[0] for one in times)
        cells.append(f"{ratio:8.2f}/{cpu[index] / cpu[0]:4.2f}x")
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.hop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    asyncio.run(measure(given.rounds, given.calls))


if __name__ == "__main__":
    main()
