"""Taking from RabbitMQ, and giving to it."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import broker, loads, programs
from bench.cases.reading import filled
from bench.cases.rest import publish, publish_to_peer, under_wrk
from bench.contests import TRIVIUM, Case, Contestant, Work
from bench.figures import Sample, Target
from bench.ground import Ground
from bench.programs import Service, Start
from bench.servers import Server
from bench.store import TOPIC

SIZE = 256
PIKA_IN, BLOCKING = "bare pika consumer, stores nothing", "blocking pika consumer (the seed), commit each"
FASTSTREAM = "FastStream consumer, stores nothing"
PIKA_OUT, AIO_PIKA = "bare pika, pipelined", "aio-pika, 200 tasks"
PIKA_RELAYED = "bare pika, pipelined, messages and exchange as of the relay"
PUBLISH_ALONE, RELAY_ALONE = "Trivium, publish alone", "Trivium, relay alone"
HANDLER = "FastAPI handler with aio-pika, waits for the confirm"
_HALF = "Trivium, at half load"
_WAIT_SECONDS = 120.0
_FULL_SECONDS = 2.0


def with_broker(ground: Ground, prefix: str, **options: object) -> Start:
    """Trivium with all its doors; the names of what it declares begin with `prefix`."""
    return programs.trivium(f"--amqp-url={ground.amqp_url}", f"--amqp-prefix={prefix}", **options)  # type: ignore[arg-type]


def progress(server: Server, count: Callable[[], int], total: int) -> Sample:
    """The rate at which a count grows from when it first moved up to `total`, and the CPU that took."""
    first = broker.until(count, 1)
    begun, cpu = time.perf_counter(), server.cpu_seconds()
    broker.until(count, total)
    if total == first:
        raise loads.LoadFailed("it was over before it could be measured: too few messages")
    took, cpu = time.perf_counter() - begun, server.cpu_seconds() - cpu
    return Sample(rate=(total - first) / took, cpu_us=cpu * 1e6 / (total - first))


def _amount(seconds: float, rate: int) -> int:
    """Messages for about so many seconds at about that rate."""
    return max(2000, int(seconds * rate) // 1000 * 1000)


@contextmanager
def inbox(ground: Ground) -> Iterator[Work]:
    """Trivium starts on a full queue, as after a pause. Each time it has a fresh folder."""
    prefix = ground.fresh("inbox").name
    with with_broker(ground, prefix)(ground):
        broker.await_queue(ground, f"{prefix}.rpc")  # the last that it declares

    def work(seconds: float) -> Sample:
        total = _amount(seconds, 15_000)
        broker.fill(ground, f"{prefix}.in", TOPIC, total, SIZE)
        with with_broker(ground, prefix)(ground) as service:
            return progress(service.server, service.stored, total)

    yield work
    broker.drop_queue(ground, f"{prefix}.in")


def consumer(module: str, rate: int, *, stores: bool = False) -> Contestant:
    """A peer on a full queue of the same kind."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        def work(seconds: float) -> Sample:
            total = _amount(seconds, rate)
            queue = ground.fresh(module).name
            broker.make_queue(ground, queue)
            broker.fill(ground, "", queue, total, SIZE)
            file = [ground.fresh("peer.db")] if stores else []
            sample = programs.one_shot(ground, module, ground.amqp_url, queue, total, *file, seconds=_WAIT_SECONDS)
            broker.drop_queue(ground, queue)
            return sample

        yield work

    return contestant


@contextmanager
def relay(ground: Ground) -> Iterator[Work]:
    """Trivium starts with messages that were stored while the broker was away."""

    def work(seconds: float) -> Sample:
        total = _amount(seconds, 10_000)
        prefix, folder = ground.fresh("relay").name, ground.fresh("data")
        queue = f"{prefix}.taken"
        shutil.copytree(filled(ground, total), folder)
        broker.make_queue(ground, queue, exchange=f"{prefix}.out", routing_key=TOPIC)
        with with_broker(ground, prefix, folder=folder)(ground) as service, broker.lengths(ground, queue) as now:
            sample = progress(service.server, now, total)
        broker.drop_queue(ground, queue)
        return sample

    yield work


def producer(module: str, rate: int, *, relayed: bool = False) -> Contestant:
    """A peer that sends to a queue of the same kind, through a topic exchange if what it sends is as of the relay."""

    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        def work(seconds: float) -> Sample:
            queue = ground.fresh(module).name
            exchange = f"{queue}.out" if relayed else ""
            broker.make_queue(ground, queue, exchange=exchange, routing_key=queue)
            total = _amount(seconds, rate)
            arguments: tuple[object, ...] = (queue, total, SIZE, *(["relayed"] if relayed else []))
            if module == "pika_publish":
                arguments = (exchange, *arguments)
            sample = programs.one_shot(ground, module, ground.amqp_url, *arguments, seconds=_WAIT_SECONDS)
            broker.drop_queue(ground, queue)
            return sample

        yield work

    return contestant


@contextmanager
def publish_alone(ground: Ground) -> Iterator[Work]:
    with programs.ALONE(ground) as service:
        yield lambda seconds: under_wrk(ground, service, publish(SIZE), connections=32, seconds=seconds)


@contextmanager
def end_to_end(ground: Ground) -> Iterator[Work]:
    """As many as 32 connections publish, until all of it is in the queue."""
    with (
        _relaying(ground) as (service, queue),
        broker.lengths(ground, queue) as now,
        broker.channel_to(ground) as channel,
    ):

        def work(seconds: float) -> Sample:
            before = service.stored()
            begun, cpu = time.perf_counter(), service.server.cpu_seconds()
            under_wrk(ground, service, publish(SIZE), connections=32, seconds=seconds)
            total = service.stored() - before
            broker.until(now, total)
            took, cpu = time.perf_counter() - begun, service.server.cpu_seconds() - cpu
            channel.queue_purge(queue)
            return Sample(rate=total / took, cpu_us=cpu * 1e6 / total)

        yield work


@contextmanager
def at_half_load(ground: Ground) -> Iterator[Work]:
    """From when a publish was due to when a consumer has it, at half the rate that was reached just before."""
    with end_to_end(ground) as full:
        rate = full(_FULL_SECONDS).rate or 0.0
    with _relaying(ground) as (service, queue):

        def work(seconds: float) -> Sample:
            arguments = (service.rest, f"/api/topics/{TOPIC}/messages", SIZE, rate / 2, seconds, ground.amqp_url, queue)
            cpu = service.server.cpu_seconds()
            found = loads.client(ground, "end_to_end", *arguments, seconds=seconds)
            found["cpu_seconds"] = service.server.cpu_seconds() - cpu
            return programs.sample_of(found)

        yield work


@contextmanager
def handler(ground: Ground) -> Iterator[Work]:
    queue = ground.fresh("handler").name
    broker.make_queue(ground, queue)
    start = programs.uvicorn("bench.peers.fastapi_aiopika:app", AMQP_URL=ground.amqp_url, QUEUE=queue)
    with start(ground) as service:
        yield lambda seconds: under_wrk(ground, service, publish_to_peer(SIZE), connections=32, seconds=seconds)
    broker.drop_queue(ground, queue)


@contextmanager
def _relaying(ground: Ground) -> Iterator[tuple[Service, str]]:
    """Trivium, and a queue that its relay feeds."""
    prefix = ground.fresh("through").name
    queue = f"{prefix}.taken"
    broker.make_queue(ground, queue, exchange=f"{prefix}.out", routing_key=TOPIC)
    with with_broker(ground, prefix)(ground) as service:
        yield service, queue
    broker.drop_queue(ground, queue)


CASES = (
    Case(
        name="amqp-inbox",
        title="AMQP inbox, durable, 256 B: from a full quorum queue into the log",
        contestants={
            TRIVIUM: inbox,
            PIKA_IN: consumer("pika_consume", 15_000),
            FASTSTREAM: consumer("faststream_consume", 5_000),
            BLOCKING: consumer("blocking_consume", 1_000, stores=True),
        },
        targets=(
            Target(text="0.8x bare pika consumer without a store", ours=TRIVIUM, theirs=(PIKA_IN,), at_least=0.8),
            Target(text="15x a naive blocking consumer", ours=TRIVIUM, theirs=(BLOCKING,), at_least=15.0),
        ),
    ),
    Case(
        name="amqp-relay",
        title="AMQP relay, confirmed, 256 B: from the log into a quorum queue",
        contestants={
            TRIVIUM: relay,
            PIKA_OUT: producer("pika_publish", 10_000),
            PIKA_RELAYED: producer("pika_publish", 10_000, relayed=True),
            AIO_PIKA: producer("aiopika_publish", 3_000),
        },
        targets=(
            Target(text="0.9x bare pipelined pika", ours=TRIVIUM, theirs=(PIKA_OUT,), at_least=0.9),
            Target(text="4x aio-pika", ours=TRIVIUM, theirs=(AIO_PIKA,), at_least=4.0),
        ),
    ),
    Case(
        name="rest-to-queue",
        title="REST publish -> queue at RabbitMQ, end to end, 256 B",
        contestants={
            TRIVIUM: end_to_end,
            PUBLISH_ALONE: publish_alone,
            RELAY_ALONE: relay,
            HANDLER: handler,
            _HALF: at_half_load,
        },
        targets=(
            Target(
                text="median below 5 ms at half load",
                ours=_HALF,
                kind="value",
                measure="p50_ms",
                at_most=5.0,
                unit=" ms",
            ),
            Target(
                text="0.6x the slower of the two alone", ours=TRIVIUM, theirs=(PUBLISH_ALONE, RELAY_ALONE), at_least=0.6
            ),
            Target(text="2x a FastAPI handler with aio-pika", ours=TRIVIUM, theirs=(HANDLER,), at_least=2.0),
        ),
    ),
)
