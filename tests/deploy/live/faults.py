"""What can befall a Trivium: each fault is caused on entering and mended on leaving."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import aio_pika
import httpx2

from tests.deploy.live.instance import Instance
from tests.deploy.live.prometheus import HORIZON_SECONDS
from tests.deploy.live.proxy import Proxy
from tests.deploy.live.traffic import TOPIC
from tools.rabbitmq import Node

#: Of the other instance, which is easy to fill.
MAX_STREAMS = 4


class Scene(NamedTuple):
    """`main` has all doors and the traffic; `other` has no AMQP, and tight bounds."""

    main: Instance
    other: Instance
    node: Node
    proxy: Proxy


async def bind(scene: Scene, topic: str) -> None:
    """A queue that takes a topic."""
    async with await aio_pika.connect(scene.node.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(topic, durable=True, arguments={"x-max-length": 1000})
        await queue.bind("trivium.out", topic)


Cause = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def bad_messages(scene: Scene) -> AsyncIterator[None]:
    """A producer sends what can't be stored."""
    async with await aio_pika.connect(scene.node.url) as connection:
        channel = await connection.channel()
        into = await channel.get_exchange("trivium.in")
        await into.publish(aio_pika.Message(b"{", content_type="application/json"), TOPIC)
        yield


@asynccontextmanager
async def unbound_topic(scene: Scene) -> AsyncIterator[None]:
    """Nobody has bound a queue for a topic."""
    async with httpx2.AsyncClient(base_url=scene.main.rest) as http:
        await http.post("/api/topics/nobodys/messages", content=b"for nobody")
    yield
    await bind(scene, "nobodys")


@asynccontextmanager
async def held_database(scene: Scene) -> AsyncIterator[None]:
    """Another program has a write transaction open."""
    database = sqlite3.connect(scene.main.database, isolation_level=None, timeout=30)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
    finally:
        database.close()


@asynccontextmanager
async def busy_database(scene: Scene) -> AsyncIterator[None]:
    """Another program writes again and again: one commit of each turn waits for it, however fast the others are."""
    database = sqlite3.connect(scene.main.database, isolation_level=None, timeout=30)

    async def write() -> None:
        while True:
            database.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.6)
            database.execute("ROLLBACK")
            await asyncio.sleep(0.1)  # SQLite looks that often at least

    try:
        async with _background(write()):
            yield
    finally:
        database.close()


@asynccontextmanager
async def long_reader(scene: Scene) -> AsyncIterator[None]:
    """Another program reads in one transaction, and keeps the write-ahead log from being folded in."""
    await bind(scene, "big")
    database = sqlite3.connect(scene.main.database, isolation_level=None, timeout=30)
    try:
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        async with httpx2.AsyncClient(base_url=scene.main.rest, timeout=30) as http:
            for _ in range(110):
                await http.post("/api/topics/big/messages", content=b"z" * 1_000_000)
        yield
    finally:
        database.close()


@asynccontextmanager
async def filling_disk(scene: Scene) -> AsyncIterator[None]:
    """Something else takes the disk three times as fast as it may, and a quarter of what is free at most."""
    with tempfile.TemporaryFile(dir=scene.other.database.parent) as file:
        disk = os.statvfs(file.fileno())
        free = disk.f_bavail * disk.f_frsize
        step = free * 3 // (HORIZON_SECONDS * 5)

        async def take() -> None:
            for taken in range(0, free // 4, step):
                await asyncio.to_thread(os.posix_fallocate, file.fileno(), taken, step)
                await asyncio.sleep(0.2)

        async with _background(take()):
            yield


@asynccontextmanager
async def starved(scene: Scene) -> AsyncIterator[None]:
    """The process gets the CPU now and then."""

    async def starve() -> None:
        while True:
            scene.main.signal(signal.SIGSTOP)
            await asyncio.sleep(0.6)
            scene.main.signal(signal.SIGCONT)
            await asyncio.sleep(0.05)

    async with _background(starve()):
        yield
    scene.main.signal(signal.SIGCONT)


@asynccontextmanager
async def alarm(scene: Scene) -> AsyncIterator[None]:
    """RabbitMQ is short of memory."""
    await asyncio.to_thread(scene.node.ctl, "set_vm_memory_high_watermark", "0.00001")
    yield
    await asyncio.to_thread(scene.node.ctl, "set_vm_memory_high_watermark", "0.4")


@asynccontextmanager
async def cut_links(scene: Scene) -> AsyncIterator[None]:
    """The network loses connections all the time."""

    async def cut() -> None:
        while True:
            scene.proxy.cut()
            await asyncio.sleep(2)

    async with _background(cut()):
        yield


@asynccontextmanager
async def no_broker(scene: Scene) -> AsyncIterator[None]:
    """RabbitMQ is gone."""
    scene.proxy.away = True
    scene.proxy.cut()
    yield
    scene.proxy.away = False


@asynccontextmanager
async def many_followers(scene: Scene) -> AsyncIterator[None]:
    """All places for streams are taken, and others want one."""

    async def follow() -> None:
        async with httpx2.AsyncClient(base_url=scene.other.rest, timeout=60) as http:
            while True:
                async with http.stream("GET", "/api/topics/any/stream") as answer:
                    async for _ in answer.aiter_bytes():
                        pass
                await asyncio.sleep(0.2)

    async with AsyncExitStack() as stack:
        for _ in range(MAX_STREAMS + 2):
            await stack.enter_async_context(_background(follow()))
        yield


@asynccontextmanager
async def many_connections(scene: Scene) -> AsyncIterator[None]:
    """Clients keep connections open, where there are few file descriptors."""
    limits = resource.prlimit(scene.other.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(scene.other.pid, resource.RLIMIT_NOFILE, (60, limits[1]))
    writers = []
    try:
        host, port = scene.other.rest.removeprefix("http://").split(":")
        for _ in range(22):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.close()
        resource.prlimit(scene.other.pid, resource.RLIMIT_NOFILE, limits)


@asynccontextmanager
async def crashes(scene: Scene) -> AsyncIterator[None]:
    """The process is killed again and again."""
    for _ in range(4):
        await scene.other.end(signal.SIGKILL)
        await scene.other.start()
        await asyncio.sleep(2)  # as long as a scrape takes to see it
    yield


@asynccontextmanager
async def slow_end(scene: Scene) -> AsyncIterator[None]:
    """It was told to stop, and waits for a RabbitMQ that does not answer."""
    scene.node.freeze()
    async with httpx2.AsyncClient(base_url=scene.main.rest) as http:
        await http.post(f"/api/topics/{TOPIC}/messages", content=b"unconfirmed")
    scene.main.signal(signal.SIGTERM)
    yield
    scene.node.thaw()
    await scene.main.end(signal.SIGKILL)
    await scene.main.start()


@asynccontextmanager
async def gone(scene: Scene) -> AsyncIterator[None]:
    """The process is gone."""
    await scene.other.end(signal.SIGKILL)
    yield
    await scene.other.start()


@asynccontextmanager
async def _background(work: object) -> AsyncIterator[None]:
    assert asyncio.iscoroutine(work)
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx2.HTTPError):
            await task


#: Every alert, by what it takes to see it.
FAULTS: tuple[tuple[Cause, set[str]], ...] = (
    (bad_messages, {"TriviumDeadLetters"}),
    (unbound_topic, {"TriviumTopicsHeld"}),
    (long_reader, {"TriviumWalGrows"}),
    (held_database, {"TriviumCommitsFail", "TriviumFailures", "TriviumSlow"}),
    (filling_disk, {"TriviumDiskFilling"}),
    (busy_database, {"TriviumCommitsSlow"}),
    (starved, {"TriviumEventLoopBlocked", "TriviumSlow"}),
    (alarm, {"TriviumBrokerBlocked", "TriviumRelayBehind"}),
    (cut_links, {"TriviumBrokerUnstable"}),
    (no_broker, {"TriviumBrokerAway"}),
    (many_followers, {"TriviumOverloaded", "TriviumBoundNear"}),
    (many_connections, {"TriviumFileDescriptors"}),
    (crashes, {"TriviumRestarts"}),
    (gone, {"TriviumDown"}),
    (slow_end, {"TriviumNotReady"}),
)
