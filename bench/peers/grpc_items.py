"""A grpc.aio stream with one message per item, from a cursor over the store that Trivium wrote."""

import os
import sqlite3
import sys

import grpc.aio
import uvloop

from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesServicer, add_MessagesServicer_to_server


class Messages(MessagesServicer):
    async def Follow(self, request, context):  # noqa: N802 - the contract's name
        database = sqlite3.connect(os.environ["DATABASE"])
        rows = database.execute("SELECT id, source, type, content_type, data FROM messages ORDER BY position")
        for offset, (id_, source, type_, content_type, data) in enumerate(rows, 1):
            message = pb.Message(
                topic=request.topic,
                offset=offset,
                id=id_,
                source=source,
                type=type_,
                content_type=content_type,
                data=data,
            )
            yield pb.FollowResponse(messages=[message], next=offset)


async def main():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_MessagesServicer_to_server(Messages(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


uvloop.run(main())
