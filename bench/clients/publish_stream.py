"""Publishes prebuilt batches through a few PublishStreams at once: PORT REQUEST_FILE EACH STREAMS SECONDS.

`EACH` is the number of messages in a request. Every answer is checked.
"""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from proto.trivium.v1 import messages_pb2 as pb

PATH = "/trivium.v1.Messages/PublishStream"


def publish(channel: grpc.Channel, request: bytes, each: int, until: float) -> int:
    """Send as fast as the server takes them; how many messages were acknowledged."""

    def requests() -> Iterator[bytes]:
        while time.perf_counter() < until:
            yield request

    count = 0
    for answer in channel.stream_stream(PATH, request_serializer=None, response_deserializer=None)(requests()):
        response = pb.PublishStreamResponse.FromString(answer)
        if response.HasField("status") or len(response.messages) != each:
            raise SystemExit(f"refused: {response}")
        count += each
    return count


def main(port: int, file: Path, each: int, streams: int, seconds: float) -> None:
    request = file.read_bytes()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(streams) as pool:
        begun = time.perf_counter()
        running = [pool.submit(publish, channel, request, each, begun + seconds) for _ in range(streams)]
        count = sum(stream.result() for stream in running)
        print(json.dumps({"count": count, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
