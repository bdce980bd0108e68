"""Bare pika: takes messages from a queue, 500 ahead, and acks a hundred at a time; stores nothing."""

import json
import sys
import time

import pika

PREFETCH, ACKED_AT_ONCE = 2000, 100

url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
received = 0
begun = 0.0


def on_message(channel, method, properties, body):
    global received, begun
    received += 1
    if received == 1:
        begun = time.perf_counter()
    if received % ACKED_AT_ONCE == 0 or received == count:
        channel.basic_ack(method.delivery_tag, multiple=True)
    if received == count:
        connection.close()


def on_channel(channel):
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, on_message)


cpu = time.process_time()
connection = pika.SelectConnection(
    pika.URLParameters(url),
    on_open_callback=lambda opened: opened.channel(on_open_callback=on_channel),
    on_close_callback=lambda closed, _: closed.ioloop.stop(),
)
connection.ioloop.start()
took = time.perf_counter() - begun
print(json.dumps({"count": received, "seconds": took, "cpu_seconds": time.process_time() - cpu}))
