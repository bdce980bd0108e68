"""Follows a topic from its start up to a known head: PORT TOPIC HEAD.

The answers stay bytes: parsing them would cost more than sending them. Where they lead to is read off their end.
"""

import json
import sys
import time

import grpc

from proto.trivium.v1 import messages_pb2 as pb

PATH = "/trivium.v1.Messages/Follow"
_NEXT = pb.FollowResponse.NEXT_FIELD_NUMBER << 3
_OPTIONS = [("grpc.max_receive_message_length", 16 * 1024 * 1024)]


def varint(number: int) -> bytes:
    """A number as protobuf encodes it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def ending(cursor: int) -> bytes:
    """The last bytes of a FollowResponse that leads to this cursor: `next` has the highest field number."""
    return bytes((_NEXT,)) + varint(cursor)


def main(port: int, topic: str, head: int) -> None:
    last = ending(head)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        request = pb.FollowRequest(topic=topic, after=0).SerializeToString()
        begun = time.perf_counter()
        answers = channel.unary_stream(PATH, request_serializer=None, response_deserializer=None)(request, timeout=600)
        for answer in answers:
            if answer.endswith(last):
                break
        took = time.perf_counter() - begun
        if pb.FollowResponse.FromString(answer).next != head:
            raise SystemExit("the stream ended early")
        print(json.dumps({"count": head, "seconds": took}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
