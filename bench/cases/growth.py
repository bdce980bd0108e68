"""What a long history and many topics cost."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench import programs
from bench.cases.reading import filled, reader
from bench.cases.rest import JSON, http, publish
from bench.contests import Case, Contestant, Work
from bench.figures import Target
from bench.ground import Ground
from bench.loads import Requests
from bench.store import json_of

FEW, MANY = 100_000, 10_000_000
SIZE = 256
AT_FEW, AT_MANY = "Trivium, 100,000 stored", "Trivium, 10,000,000 stored"
ONE, THOUSAND = "Trivium, 1 topic", "Trivium, 1,000 topics"
TOPICS = 1000


def publisher(count: int) -> Contestant:
    """Publishing to a topic that holds so many messages."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        start = programs.trivium("--no-amqp", folder=filled(ground, count))
        with http(start, publish(SIZE), connections=32)(ground) as work:
            yield work

    return contestant


def over_topics(count: int) -> Contestant:
    requests = Requests(path="/api/topics/t{n}/messages", body=json_of(SIZE), content_type=JSON, count=count)
    return http(programs.ALONE, requests, connections=32)


CASES = (
    Case(
        name="growth-topics",
        title="durable REST publish to many topics, 32 in flight, 256 B",
        contestants={ONE: over_topics(1), THOUSAND: over_topics(TOPICS)},
        targets=(
            Target(
                text="CPU per message over 1,000 topics at most 1.25x that of one",
                ours=THOUSAND,
                theirs=(ONE,),
                measure="cpu_us",
                at_most=1.25,
            ),
        ),
    ),
    Case(
        name="growth-publish",
        title="durable REST publish on a long history, 32 in flight, 256 B",
        contestants={AT_FEW: publisher(FEW), AT_MANY: publisher(MANY)},
        targets=(Target(text="0.8x the rate at 100,000", ours=AT_MANY, theirs=(AT_FEW,), at_least=0.8),),
        only_full=True,
    ),
    Case(
        name="growth-pages",
        title="REST pages of 1,000 all over a long history, one reader, 256 B",
        contestants={AT_FEW: reader(lambda _: FEW), AT_MANY: reader(lambda _: MANY)},
        targets=(Target(text="0.8x the rate at 100,000", ours=AT_MANY, theirs=(AT_FEW,), at_least=0.8),),
        only_full=True,
    ),
)
