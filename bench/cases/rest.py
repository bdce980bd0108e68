"""Getting and publishing over HTTP/1.1."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from bench import programs
from bench.contests import TRIVIUM, Case, Contestant, Work
from bench.figures import Sample, Target, percentile
from bench.ground import Ground
from bench.loads import Requests, wrk
from bench.programs import Service, Start
from bench.servers import HOST
from bench.store import json_of

JSON = "application/json"
EVENTS = "application/cloudevents-batch+json"
BATCH = 100
TOPIC_PATH = "/api/topics/t/messages"

HYPERCORN, UVICORN, GRANIAN = "starlette on hypercorn", "starlette on uvicorn", "starlette on granian"
HELLO = "FastAPI on uvicorn, GET"
KEYED = "Trivium, each with an Idempotency-Key"
NO_STORE, FLASK = "Trivium without the store", "Flask on gunicorn, commit each"
BARE_SQLITE = "bare SQLite, groups of 100"
FDATASYNC = "fdatasync of 4 KiB"
_PAGE = 4096
_PREALLOCATED_PAGES = 1024


def http(
    start: Start, requests: Requests, *, connections: int, each: int = 1, least_seconds: float = 0.0
) -> Contestant:
    """A server under wrk, for no less than `least_seconds`: some answer only after a while."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        with start(ground) as service:
            yield lambda seconds: under_wrk(
                ground, service, requests, connections=connections, seconds=max(seconds, least_seconds), each=each
            )

    return contestant


def under_wrk(
    ground: Ground, service: Service, requests: Requests, *, connections: int, seconds: float, each: int = 1
) -> Sample:
    return wrk(ground, service.server, service.rest, requests, connections=connections, seconds=seconds, each=each)


def publish(size: int, *, keyed: bool = False) -> Requests:
    """One message, as Trivium takes it."""
    return Requests(path=TOPIC_PATH, body=json_of(size), content_type=JSON, keyed=keyed)


def publish_to_peer(size: int) -> Requests:
    return Requests(path="/messages", body=json_of(size), content_type=JSON)


def batch(size: int, path: str) -> Requests:
    """A hundred CloudEvents, each with a new id."""
    event: dict[str, Any] = {"specversion": "1.0", "id": "{id}", "source": "urn:bench", "type": "bench"}
    events = [event | {"data": json.loads(json_of(size))} for _ in range(BATCH)]
    return Requests(path=path, body=json.dumps(events, separators=(",", ":")).encode(), content_type=EVENTS)


@contextmanager
def fdatasync(ground: Ground) -> Iterator[Work]:
    """The disk alone: one page after another of a file that is there already."""
    path = ground.fresh("fdatasync")
    opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    page = os.urandom(_PAGE)
    for number in range(_PREALLOCATED_PAGES):
        os.pwrite(opened, page, number * _PAGE)
    os.fsync(opened)

    def work(seconds: float) -> Sample:
        taken: list[float] = []
        begun = last = time.perf_counter()
        while last - begun < seconds:
            os.pwrite(opened, page, len(taken) % _PREALLOCATED_PAGES * _PAGE)
            os.fdatasync(opened)
            now = time.perf_counter()
            taken.append((now - last) * 1e3)
            last = now
        rate = len(taken) / (last - begun)
        taken.sort()
        return Sample(rate=rate, p50_ms=percentile(taken, 0.5), p99_ms=percentile(taken, 0.99))

    try:
        yield work
    finally:
        os.close(opened)


def sqlite_groups(size: int) -> Contestant:
    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        yield lambda seconds: programs.one_shot(
            ground, "sqlite_groups", ground.fresh("bare"), size, seconds, seconds=seconds
        )

    return contestant


def with_message(start: Start) -> Start:
    """Its default topic holds a message of 256 bytes."""

    @contextmanager
    def started(ground: Ground) -> Iterator[Service]:
        with start(ground) as service:
            body = json.dumps({"message": "m" * 256}).encode()
            request = Request(f"http://{HOST}:{service.rest}/api/data", body, {"content-type": JSON})
            urlopen(request, timeout=20).close()
            yield service

    return started


def _getting(connections: int) -> Case:
    get = Requests(path="/api/data")
    app = "bench.peers.starlette_app:app"
    starts = {
        TRIVIUM: with_message(programs.ALONE),
        HYPERCORN: programs.hypercorn(app),
        UVICORN: programs.uvicorn(app),
        GRANIAN: programs.granian(app),
        "bare ASGI on hypercorn": programs.hypercorn("bench.peers.bare_asgi:app"),
        "Flask on gunicorn": programs.gunicorn("bench.peers.flask_app:app"),
        "Flask's own server (the seed)": programs.flask_alone("bench.peers.flask_app"),
    }
    return Case(
        name=f"rest-get-{connections}",
        title=f"`GET /api/data`, {connections} connections",
        unit="requests/s",
        contestants={name: http(start, get, connections=connections) for name, start in starts.items()},
        targets=(
            Target(text="4x starlette on stock hypercorn", ours=TRIVIUM, theirs=(HYPERCORN,), at_least=4.0),
            Target(text="1.0x starlette on uvicorn", ours=TRIVIUM, theirs=(UVICORN,), at_least=1.0),
            Target(text="1.0x starlette on granian", ours=TRIVIUM, theirs=(GRANIAN,), at_least=1.0, stretch=True),
        ),
    )


def _publishing(size: int) -> Case:
    fastapi = programs.uvicorn("bench.peers.fastapi_app:app")
    to_peer = publish_to_peer(size)
    return Case(
        name=f"rest-publish-{size}",
        title=f"durable REST publish, 32 in flight, {size} B",
        contestants={
            TRIVIUM: http(programs.ALONE, publish(size), connections=32),
            KEYED: http(programs.ALONE, publish(size, keyed=True), connections=32),
            NO_STORE: http(programs.NO_STORE, publish(size), connections=32),
            HELLO: http(fastapi, Requests(path="/"), connections=32),
            "FastAPI with aiosqlite, commit each": http(fastapi, to_peer, connections=32),
            FLASK: http(programs.gunicorn("bench.peers.flask_app:app"), to_peer, connections=32),
            "Flask's own server (the seed), commit each": http(
                programs.flask_alone("bench.peers.flask_app"), to_peer, connections=32
            ),
        },
        targets=(
            Target(text="0.75x the same server without the store", ours=TRIVIUM, theirs=(NO_STORE,), at_least=0.75),
            Target(text="10x Flask on gunicorn", ours=TRIVIUM, theirs=(FLASK,), at_least=10.0),
            Target(text="1.6x FastAPI's plain GET", ours=TRIVIUM, theirs=(HELLO,), at_least=1.6),
            Target(
                text="2x FastAPI's plain GET (the headline)", ours=TRIVIUM, theirs=(HELLO,), at_least=2.0, stretch=True
            ),
        ),
        only_full=size != 256,
    )


def _alone(size: int) -> Case:
    return Case(
        name=f"rest-publish-alone-{size}",
        title=f"durable REST publish, 1 in flight, {size} B",
        contestants={TRIVIUM: http(programs.ALONE, publish(size), connections=1), FDATASYNC: fdatasync},
        targets=(
            Target(
                text="p50 at most 0.4 ms above that of `fdatasync`",
                ours=TRIVIUM,
                theirs=(FDATASYNC,),
                kind="difference",
                measure="p50_ms",
                at_most=0.4,
                unit=" ms",
            ),
        ),
        only_full=size != 256,
    )


def _batches(size: int) -> Case:
    flask = programs.gunicorn("bench.peers.flask_app:app")
    return Case(
        name=f"rest-batches-{size}",
        title=f"durable REST batches of 100, 32 in flight, {size} B",
        contestants={
            TRIVIUM: http(programs.ALONE, batch(size, TOPIC_PATH), connections=32, each=BATCH),
            BARE_SQLITE: sqlite_groups(size),
            FLASK: http(flask, batch(size, "/batches"), connections=32, each=BATCH, least_seconds=3.0),
        },
        targets=(
            Target(text="0.8x bare SQLite groups of 100", ours=TRIVIUM, theirs=(BARE_SQLITE,), at_least=0.8),
            Target(text="50x Flask", ours=TRIVIUM, theirs=(FLASK,), at_least=50.0),
        ),
        only_full=size != 256,
    )


CASES = (
    _getting(32),
    _getting(128),
    *(_publishing(size) for size in (256, 1024)),
    *(_alone(size) for size in (256, 1024)),
    *(_batches(size) for size in (256, 1024)),
)
