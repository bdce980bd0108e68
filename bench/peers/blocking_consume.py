"""The seed's AMQP: a blocking pika consumer that commits and acks one message after another."""

import json
import sqlite3
import sys
import time

import pika

url, queue, count, file = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
database = sqlite3.connect(file)
database.execute("PRAGMA journal_mode = wal")
database.execute("PRAGMA synchronous = full")
database.execute("CREATE TABLE messages (number INTEGER PRIMARY KEY, data BLOB)")
received = 0
begun, cpu = 0.0, time.process_time()


def on_message(channel, method, properties, body):
    global received, begun
    received += 1
    if received == 1:
        begun = time.perf_counter()
    with database:
        database.execute("INSERT INTO messages (data) VALUES (?)", (body,))
    channel.basic_ack(method.delivery_tag)
    if received == count:
        channel.stop_consuming()


with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    channel.basic_consume(queue, on_message)
    channel.start_consuming()
took = time.perf_counter() - begun
print(json.dumps({"count": received, "seconds": took, "cpu_seconds": time.process_time() - cpu}))
