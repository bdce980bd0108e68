"""python -m tests.deploy.live: every alert fires and clears, and every expression tells something, on the real things.

A RabbitMQ, a Prometheus and two Trivium run on this machine while scripted users publish and read, and one fault after
the other befalls them. It takes about ten minutes, and is no part of `make test`.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.deploy.files import alerts
from tests.deploy.live.faults import FAULTS, MAX_STREAMS, Scene
from tests.deploy.live.instance import Instance, free_port
from tests.deploy.live.prometheus import Prometheus, expressions, prometheus
from tests.deploy.live.proxy import proxy
from tests.deploy.live.traffic import Traffic
from tools.rabbitmq import Node

#: Of the traffic, before the first fault.
WARM_UP_SECONDS = 20


async def suffer(scene: Scene, told: Prometheus) -> list[str]:
    """One fault after the other; what went wrong."""
    wrong = []
    for cause, expected in FAULTS:
        try:
            # An earlier fault may have left some; and on a busy machine the loop is late without any, for a while.
            await told.wait_for(expected, gone=True)
            begun = time.monotonic()
            async with cause(scene):
                await told.wait_for(expected)
                fired = time.monotonic()
            await told.wait_for(expected, gone=True)
        except AssertionError as error:
            wrong.append(f"{cause.__name__}: {error}")
            print(wrong[-1], flush=True)
            continue
        clear = time.monotonic() - fired
        what = f"{cause.__name__}: {', '.join(sorted(expected))}"
        print(f"{what} after {fired - begun:.0f} s, clear after {clear:.0f} s more", flush=True)
    return wrong


async def run(folder: Path, node: Node) -> int:
    async with AsyncExitStack() as stack:
        link, port = await stack.enter_async_context(proxy(node.port))
        url = f"amqp://guest:guest@127.0.0.1:{port}/"
        main = Instance(folder / "main", f"--amqp-url={url}", "--amqp-retry-seconds=1")
        other = Instance(folder / "other", "--no-amqp", f"--max-streams={MAX_STREAMS}")
        for instance in (main, other):
            await instance.start()
            stack.push_async_callback(instance.close)
        told = await stack.enter_async_context(
            prometheus(folder / "prometheus", free_port(), [main.admin, other.admin])
        )
        users = asyncio.create_task(Traffic(main.rest, main.grpc, node.url).run(), name="users")
        stack.callback(users.cancel)
        await asyncio.sleep(WARM_UP_SECONDS)
        wrong = await suffer(Scene(main, other, node, link), told)
        silent = [expression for expression in expressions() if not await told.has_told(expression)]
        for expression in silent:
            print(f"never told anything: {expression}")
        missing = alerts().keys() - set().union(*(expected for _, expected in FAULTS))
        print(f"{len(alerts()) - len(missing)} of {len(alerts())} alerts have a fault")
        print(f"{len(expressions()) - len(silent)} of {len(expressions())} expressions told something")
        assert not users.done(), users.exception()
        return 1 if wrong or silent or missing else 0


def main() -> int:
    with tempfile.TemporaryDirectory() as name, Node(Path(name, "rabbitmq")) as node:
        return asyncio.run(run(Path(name), node))


if __name__ == "__main__":
    sys.exit(main())
