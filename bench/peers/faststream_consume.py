"""FastStream's RabbitMQ broker: takes messages from a queue, 500 ahead; stores nothing."""

import asyncio
import json
import sys
import time

import uvloop
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
broker = RabbitBroker(url, logger=None)
arguments = {"x-delivery-limit": 2**31 - 1}
received = 0
begun = 0.0


@broker.subscriber(
    RabbitQueue(queue, queue_type=QueueType.QUORUM, durable=True, arguments=arguments),
    channel=Channel(prefetch_count=500),
)
async def on_message(body: bytes):
    global received, begun
    received += 1
    if received == 1:
        begun = time.perf_counter()
    if received == count:
        finished.set()


async def main():
    global finished
    finished = asyncio.Event()
    cpu = time.process_time()
    async with broker:
        await broker.start()
        await finished.wait()
        took = time.perf_counter() - begun
    print(json.dumps({"count": received, "seconds": took, "cpu_seconds": time.process_time() - cpu}))


uvloop.run(main())
