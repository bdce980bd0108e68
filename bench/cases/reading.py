"""Catching up on a long topic."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import loads, programs
from bench.cases.rest import under_wrk
from bench.contests import Case, Contestant, Work
from bench.figures import Sample, Target
from bench.ground import Ground
from bench.loads import Requests
from bench.programs import Start, sample_of
from bench.servers import OURS
from bench.store import TOPIC

FOLLOW, PAGES = "Trivium, gRPC Follow", "Trivium, REST pages of 1,000"
CURSOR, ITEMS = "bare cursor reads", "grpc.aio, one message per stream item"
PAGE = 1000
SIZE = 256
_FILL_SECONDS = 600.0


def count_of(ground: Ground) -> int:
    return 100_000 if ground.quick else 1_000_000


def filled(ground: Ground, count: int) -> Path:
    """A folder with a store of so many messages, made once in a run; for one server at a time."""
    folder = ground.folder / f"store-{count}"
    if not folder.exists():
        loads.run(ground, [OURS, "-m", "bench.store", folder, str(count), str(SIZE)], _FILL_SECONDS)
    return folder


def copied(ground: Ground, count: int) -> Path:
    """The same store for one server of several."""
    folder = ground.fresh("store")
    shutil.copytree(filled(ground, count), folder)
    return folder


def pages(count: int) -> Requests:
    """The pages of a topic one after another, again and again; of a long one a thousand, evenly spread."""
    step = max(PAGE, count // 1000)
    return Requests(path=f"/api/topics/{TOPIC}/messages?limit={PAGE}&after={{n}}", count=count // step, step=step)


def reader(count: Callable[[Ground], int], store: Callable[[Ground, int], Path] = filled) -> Contestant:
    """One reader of REST pages on a store of so many messages."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        found = count(ground)
        with programs.trivium("--no-amqp", folder=store(ground, found))(ground) as service:
            yield lambda seconds: under_wrk(ground, service, pages(found), connections=1, seconds=seconds, each=PAGE)

    return contestant


def follower(start: Callable[[Path], Start], share: int = 1) -> Contestant:
    """One follower from the start of the topic, up to a `share`th of it where the rest would take too long."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        count = count_of(ground)
        with start(copied(ground, count))(ground) as service:

            def work(_seconds: float) -> Sample:
                before = service.server.cpu_seconds()
                found = loads.client(ground, "catch_up", service.grpc, TOPIC, count // share, seconds=_FILL_SECONDS)
                found["cpu_seconds"] = service.server.cpu_seconds() - before
                return sample_of(found)

            yield work

    return contestant


@contextmanager
def cursor(ground: Ground) -> Iterator[Work]:
    folder = filled(ground, count_of(ground))
    yield lambda _seconds: programs.one_shot(ground, "sqlite_cursor", folder, seconds=_FILL_SECONDS)


def _items(folder: Path) -> Start:
    return programs.grpc_peer("grpc_items", DATABASE=str(folder / "trivium.db"))


CASES = (
    Case(
        name="catch-up",
        title="catching up on a topic of 1,000,000 messages of 256 B (quick: 100,000), one reader",
        contestants={
            FOLLOW: follower(lambda folder: programs.trivium("--no-amqp", folder=folder)),
            PAGES: reader(count_of, copied),
            CURSOR: cursor,
            ITEMS: follower(_items, share=10),
        },
        targets=(
            Target(text="`Follow`: 0.5x bare cursor reads", ours=FOLLOW, theirs=(CURSOR,), at_least=0.5),
            Target(text="REST pages: 0.5x bare cursor reads", ours=PAGES, theirs=(CURSOR,), at_least=0.5),
            Target(text="`Follow`: 10x one message per stream item", ours=FOLLOW, theirs=(ITEMS,), at_least=10.0),
        ),
    ),
)
