"""A broker that is away, and comes back."""

from pathlib import Path

import pytest

from tests.e2e.clients import drain_until, grpc_publisher, relayed, rest_publisher
from tests.e2e.process import trivium_process
from tools.rabbitmq import Node


@pytest.mark.timeout(240)
async def test_everything_arrives_after_an_outage(tmp_path: Path, rabbitmq_node: Node) -> None:
    """1,000 messages published while the broker is down all reach the queue, in order; it is told once."""
    node = rabbitmq_node
    async with trivium_process(f"--data-dir={tmp_path}", f"--amqp-url={node.url}") as trivium:
        await trivium.logged("broker is connected")
        async with relayed(node.url, "trivium.out", "#"):
            pass
        node.stop()
        async with rest_publisher(trivium.rest, "t") as by_rest, grpc_publisher(trivium.grpc, "t") as by_grpc:
            for number in range(500):
                await by_rest(f"rest-{number}")
                await by_grpc(f"grpc-{number}")
        node.start()  # it would end with any other thread
        async with relayed(node.url, "trivium.out", "#") as queue:
            arrived = await drain_until(queue, 1000)
        assert [offset for _, offset, _ in arrived] == list(range(1, 1001))
        assert sum(line.get("part") == "broker" for line in trivium.lines) <= 2
