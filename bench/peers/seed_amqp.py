"""The seed's third process: a blocking producer that sends each second, and a blocking consumer in a thread."""

import sys
import threading
import time

import pika

url, queue = sys.argv[1], sys.argv[2]


def consume():
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_consume(queue, lambda channel, method, *_: channel.basic_ack(method.delivery_tag))
        channel.start_consuming()


threading.Thread(target=consume, daemon=True).start()
with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    while True:
        channel.basic_publish("", queue, b"hello", pika.BasicProperties(delivery_mode=2))
        time.sleep(1)
