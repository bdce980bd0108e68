"""Bare pika, pipelined: persistent messages to a queue, up to 1,000 of them waiting for their confirms.

As `relayed`, each has the properties that one from Trivium's relay has.
"""

import json
import sys
import time
import uuid
from datetime import UTC, datetime

import pika

WINDOW = 1000

url, exchange, routing_key = sys.argv[1:4]
count, size = int(sys.argv[4]), int(sys.argv[5])
relayed = sys.argv[6:] == ["relayed"]
plain = pika.BasicProperties(content_type="application/json", delivery_mode=2)
body = b'"%b"' % (b"m" * (size - 2))
sent = confirmed = 0  # all up to here
early = set()  # confirmed before others that were sent earlier
begun = 0.0


def properties_of(number):
    if not relayed:
        return plain
    id, type, now = str(uuid.UUID(int=number)), "trivium.message", datetime.now(UTC)
    headers = {"x-trivium-topic": routing_key, "x-trivium-offset": 2**40 + number, "ce-specversion": "1.0"}
    headers |= {"ce-id": id, "ce-source": "urn:trivium", "ce-type": type, "ce-time": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"}
    return pika.BasicProperties(
        content_type="application/json",
        headers=headers,
        delivery_mode=2,
        message_id=id,
        timestamp=int(now.timestamp()),
        type=type,
    )


def publish():
    global sent
    while sent < count and sent - confirmed < WINDOW:
        channel.basic_publish(exchange, routing_key, body, properties_of(sent), mandatory=True)
        sent += 1


def on_confirm(frame):
    global confirmed
    tag = frame.method.delivery_tag
    if isinstance(frame.method, pika.spec.Basic.Nack):
        connection.ioloop.stop()
    elif frame.method.multiple:
        early.difference_update(range(confirmed + 1, tag + 1))
        confirmed = max(confirmed, tag)
    else:
        early.add(tag)
    while confirmed + 1 in early:
        confirmed += 1
        early.remove(confirmed)
    if confirmed == count:
        connection.close()
    elif sent - confirmed <= WINDOW // 2:
        publish()


def on_channel(opened):
    global channel, begun
    channel = opened
    channel.add_on_close_callback(lambda *_: connection.ioloop.stop())
    channel.add_on_return_callback(lambda *_: connection.ioloop.stop())
    channel.confirm_delivery(on_confirm, callback=lambda _: publish())
    begun = time.perf_counter()


cpu = time.process_time()
connection = pika.SelectConnection(
    pika.URLParameters(url),
    on_open_callback=lambda opened: opened.channel(on_open_callback=on_channel),
)
connection.ioloop.start()
took = time.perf_counter() - begun
print(json.dumps({"count": confirmed, "seconds": took, "cpu_seconds": time.process_time() - cpu}))
sys.exit(confirmed != count)
