"""A bare grpc.aio echo on uvloop: bytes in, the same bytes out, no protobuf."""

import sys

import grpc.aio
import uvloop


async def echo(request, context):
    return request


async def main():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("trivium.v1.Messages", {"Publish": handler})])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


uvloop.run(main())
