"""What the hop from an edge to its core costs, against a core with doors of its own, in one run.

python -m tests.e2e.hop [--rounds 5] [--calls 400]    prints ratios of medians
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

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


async def measure(rounds: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            core = await stack.enter_async_context(trivium_process("--no-amqp", f"--data-dir={folder}"))
            cores = {"grpc": f"--core=grpc://{core.grpc}", "rest": f"--core={core.rest}"}
            edges = {name: await stack.enter_async_context(trivium_process(one)) for name, one in cores.items()}
            second = await stack.enter_async_context(trivium_process(cores["grpc"]))
            direct = await calls_of(stack, core)
            over_grpc, over_rest = [await calls_of(stack, edge) for edge in edges.values()]
            other = await calls_of(stack, second)
            print(f"{'':14}{'in flight':>10}{'direct':>12}{'over gRPC':>11}{'over REST':>11}{'two edges':>11}")
            for name in direct:
                ways = ([direct[name]], [over_grpc[name]], [over_rest[name]], [over_grpc[name], other[name]])
                for in_flight in (1, _IN_FLIGHT):
                    times: list[list[float]] = [[] for _ in ways]
                    for _ in range(rounds + 1):  # the first warms up
                        for way, found in zip(ways, times, strict=True):
                            found.append(await seconds_each(way, count, in_flight))
                    base, *others = (statistics.median(found[1:]) for found in times)
                    ratios = "".join(f"{one / base:10.2f}x" for one in others)
                    print(f"{name:14}{in_flight:10}{base * 1e6:9.0f} us{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.hop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    asyncio.run(measure(given.rounds, given.calls))


if __name__ == "__main__":
    main()
