"""kill -9 in the middle of everything."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from tests.e2e.clients import (
    Published,
    amqp_publisher,
    drain_until,
    grpc_publisher,
    relayed,
    rest_publisher,
    whole_topic,
)
from tests.e2e.process import trivium_process

ROUNDS = 3
ACKNOWLEDGED_PER_ROUND = 300


async def test_kill_loses_nothing(tmp_path: Path, amqp_url: str, amqp_prefix: str) -> None:
    """Killed while publishing through all doors, thrice: what was acknowledged is there once, in order, and relayed."""
    arguments = (f"--data-dir={tmp_path}", f"--amqp-url={amqp_url}", f"--amqp-prefix={amqp_prefix}")
    published = {door: Published() for door in ("rest", "grpc", "amqp")}
    for round_ in range(ROUNDS):
        async with trivium_process(*arguments) as trivium, AsyncExitStack() as stack:
            await trivium.logged("broker is connected")
            publishers = {
                "rest": await stack.enter_async_context(rest_publisher(trivium.rest, "t")),
                "grpc": await stack.enter_async_context(grpc_publisher(trivium.grpc, "t")),
                "amqp": await stack.enter_async_context(amqp_publisher(amqp_url, f"{amqp_prefix}.in", "t")),
            }
            tasks = [
                asyncio.create_task(published[door].keep_publishing(publish, f"{door}-{round_}"))
                for door, publish in publishers.items()
            ]
            for door in publishers:
                await published[door].reach((round_ + 1) * ACKNOWLEDGED_PER_ROUND)
            await trivium.end(signal.SIGKILL)
            tasks[-1].cancel()  # RabbitMQ lives, and goes on acknowledging
            await asyncio.wait(tasks)

    async with trivium_process(*arguments) as trivium:
        await trivium.logged("broker is connected")
        acknowledged = {id_ for remembered in published.values() for id_ in remembered.ids}
        stored = await whole_topic(trivium.rest, "t")
        while not acknowledged <= {one["id"] for one in stored}:  # the inbox catches up with RabbitMQ
            stored = await whole_topic(trivium.rest, "t")
        ids = [one["id"] for one in stored]
        assert len(ids) == len(set(ids))
        assert [int(one["offset"]) for one in stored] == list(range(1, len(stored) + 1))
        for remembered in published.values():
            places = [ids.index(id_) for id_ in remembered.ids]
            assert places == sorted(places)
        async with relayed(amqp_url, f"{amqp_prefix}.out", "t") as queue:
            arrived = await drain_until(queue, len(stored))
        assert {offset: data.decode() for _, offset, data in arrived} == dict(enumerate(ids, 1))
        assert await trivium.end(signal.SIGTERM) == 0
