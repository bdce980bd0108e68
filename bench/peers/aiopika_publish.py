"""aio-pika: persistent messages to a queue, 200 tasks that each wait for their confirm."""

import asyncio
import json
import sys
import time

import aio_pika
import uvloop

TASKS = 200


async def main(url, queue, count, size):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        message = aio_pika.Message(b"m" * size, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)

        async def publish(times):
            for _ in range(times):
                await channel.default_exchange.publish(message, routing_key=queue, mandatory=True)

        begun, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(publish(count // TASKS))
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps({"count": count // TASKS * TASKS, "seconds": took, "cpu_seconds": cpu}))


uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
