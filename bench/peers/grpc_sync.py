"""A synchronous grpcio server that commits each message: the seed's gRPC."""

import os
import sqlite3
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesServicer, add_MessagesServicer_to_server


class Messages(MessagesServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.database = sqlite3.connect(os.environ["DATABASE"], check_same_thread=False)
        self.database.execute("PRAGMA journal_mode = wal")
        self.database.execute("PRAGMA synchronous = full")
        self.database.execute("CREATE TABLE messages (number INTEGER PRIMARY KEY, id TEXT UNIQUE, data BLOB)")

    def Publish(self, request, context):  # noqa: N802 - the contract's name
        published = []
        for message in request.messages:
            id_ = message.id or str(uuid.uuid4())
            with self.lock, self.database:
                row = self.database.execute("INSERT INTO messages (id, data) VALUES (?, ?)", (id_, message.data))
            published.append(pb.Published(topic=request.topic, offset=row.lastrowid, id=id_))
        return pb.PublishResponse(messages=published)


server = grpc.server(ThreadPoolExecutor(max_workers=10), options=[("grpc.so_reuseport", 0)])
add_MessagesServicer_to_server(Messages(), server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
