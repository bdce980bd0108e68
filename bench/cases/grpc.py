"""Publishing over gRPC."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench import loads, programs
from bench.cases.rest import BARE_SQLITE, BATCH, JSON, sqlite_groups
from bench.contests import TRIVIUM, Case, Contestant, Work
from bench.figures import Sample, Target
from bench.ground import Ground
from bench.programs import Service, Start, sample_of
from bench.store import TOPIC, json_of
from proto.trivium.v1 import messages_pb2 as pb

PUBLISH = "/trivium.v1.Messages/Publish"
ECHO, SYNC = "bare grpc.aio echo", "synchronous grpcio (the seed), commit each"
BATCHES, STREAM = "Trivium, Publish of 100", "Trivium, PublishStream of 100"
#: Thirty-two calls in flight, over a few connections as several clients would.
CONNECTIONS, STREAMS = 4, 8
STREAMS_OF_BATCHES = 4


def request(size: int, messages: int) -> bytes:
    message = pb.Message(data=json_of(size), content_type=JSON)
    return pb.PublishRequest(topic=TOPIC, messages=[message] * messages).SerializeToString()


def frame(size: int, messages: int = 1) -> bytes:
    """A PublishRequest in gRPC's framing: not compressed, its length, its bytes."""
    body = request(size, messages)
    return b"\0" + len(body).to_bytes(4) + body


def unary(start: Start, size: int, messages: int = 1, *, path: str = PUBLISH) -> Contestant:
    """A server under h2load, after a real client was answered with OK."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        with start(ground) as service:
            check(ground, service, frame(size, messages), path)
            yield lambda seconds: under_h2load(ground, service, frame(size, messages), seconds, messages, path=path)

    return contestant


def check(ground: Ground, service: Service, data: bytes, path: str = PUBLISH) -> None:
    """Have a real client make the call once. Raises `LoadFailed` unless it is answered with OK."""
    file = ground.fresh("frame")
    file.write_bytes(data)
    loads.client(ground, "call_once", service.grpc, path, file, seconds=20)


def under_h2load(
    ground: Ground, service: Service, data: bytes, seconds: float, messages: int = 1, *, path: str = PUBLISH
) -> Sample:
    return loads.h2load(
        ground,
        service.server,
        service.grpc,
        path,
        data,
        connections=CONNECTIONS,
        streams=STREAMS,
        seconds=seconds,
        each=messages,
        stored=service.stored if service.rest else None,
    )


def stream(size: int) -> Contestant:
    """PublishStream, driven by gRPC's C core."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        file = ground.fresh("request")
        file.write_bytes(request(size, BATCH))
        with programs.ALONE(ground) as service:

            def work(seconds: float) -> Sample:
                before = service.server.cpu_seconds()
                arguments = (service.grpc, file, BATCH, STREAMS_OF_BATCHES, seconds)
                found = loads.client(ground, "publish_stream", *arguments, seconds=seconds)
                found["cpu_seconds"] = service.server.cpu_seconds() - before
                return sample_of(found)

            yield work

    return contestant


def _publishing(size: int) -> Case:
    return Case(
        name=f"grpc-publish-{size}",
        title=f"durable gRPC `Publish`, 32 in flight, {size} B",
        contestants={
            TRIVIUM: unary(programs.ALONE, size),
            ECHO: unary(programs.grpc_peer("grpc_echo"), size),
            SYNC: unary(programs.grpc_peer("grpc_sync"), size),
        },
        targets=(
            Target(text="0.9x a bare grpc.aio echo of the same size", ours=TRIVIUM, theirs=(ECHO,), at_least=0.9),
            Target(text="2.5x a synchronous server that commits each", ours=TRIVIUM, theirs=(SYNC,), at_least=2.5),
        ),
        only_full=size != 256,
    )


def _batches(size: int) -> Case:
    return Case(
        name=f"grpc-batches-{size}",
        title=f"durable gRPC batches of 100, {size} B",
        contestants={
            BATCHES: unary(programs.ALONE, size, BATCH),
            STREAM: stream(size),
            BARE_SQLITE: sqlite_groups(size),
        },
        targets=(
            Target(text="`Publish`: 0.8x bare SQLite groups", ours=BATCHES, theirs=(BARE_SQLITE,), at_least=0.8),
            Target(text="`PublishStream`: 0.8x bare SQLite groups", ours=STREAM, theirs=(BARE_SQLITE,), at_least=0.8),
        ),
        only_full=size != 256,
    )


CASES = (*(_publishing(size) for size in (256, 1024)), *(_batches(size) for size in (256, 1024)))
