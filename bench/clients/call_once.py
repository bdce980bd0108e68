"""Makes one unary call as a real client does, with the bytes that h2load will send: PORT PATH FRAME_FILE.

Prints the size of the answer; ends with an error unless the status is OK.
"""

import json
import sys
from pathlib import Path

import grpc

_PREFIX = 5  # of a gRPC frame: a flag and the length


def call(port: int, path: str, frame: bytes) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(path, request_serializer=None, response_deserializer=None)(
            frame[_PREFIX:], timeout=20
        )
    return len(answer)


if __name__ == "__main__":
    print(json.dumps({"bytes": call(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes())}))
