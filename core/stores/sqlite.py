"""The log in SQLite: one writer, a few readers, the newest messages in memory."""

import asyncio
import itertools
import os
from asyncio import Future
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw
from msgspec import Struct

from core.errors import TriviumError
from core.health import Health, State
from core.messages import Message, Published, StoredMessage, TopicHead
from core.ports import Clock
from core.settings import MEMORY, Settings
from core.stores.groups import GroupCommit, GroupObserver, Unit
from core.stores.lock import DirectoryLock
from core.stores.readers import Readers
from core.stores.schema import migrate
from core.stores.tails import Tails
from core.stores.writer import Writer
from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from core.telemetry.metrics import bound

_BUSY_MILLISECONDS = 5000
_WRITER_CACHE_KIB = 32 * 1024
_names = itertools.count()


class LogBounds(Struct, frozen=True, kw_only=True):
    """What the log may use, as the settings of these names say."""

    max_topics: int
    max_uncommitted_bytes: int
    tail_bytes: int
    commit_seconds: float
    metrics_topics: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(**{name: getattr(settings, name) for name in cls.__struct_fields__})


class SqliteLog:
    """A `MessageLog` in the file `trivium.db` of a folder, or in memory (`:memory:`) for tests.

    `synchronous=FULL`: a commit has been through fsync. With NORMAL a power cut loses acknowledged ones.
    """

    def __init__(
        self, data_dir: str, bounds: LogBounds, clock: Clock, health: Health, traced: GroupObserver | None = None
    ) -> None:
        self._traced = traced
        self._in_memory = data_dir == MEMORY
        self._folder = Path(data_dir)
        self._bounds = bounds
        self._clock = clock
        self._health = health
        self._tails = Tails(bounds.tail_bytes)
        self._tail_reads = self._disk_reads = 0
        self._watchers: list[Callable[[Mapping[str, int]], None]] = []
        self._memory_name = f"file:/trivium-{os.getpid()}-{next(_names)}?vfs=memdb"

    @property
    def groups(self) -> GroupCommit:
        return self._groups

    async def __aenter__(self) -> Self:
        """Open the log. Raises `StoreLocked`, `UnknownSchema`, `OSError` or `apsw.Error`."""
        self._lock = DirectoryLock(self._folder)
        if not self._in_memory:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # messages are not for the machine's others
            self._lock.acquire()
        try:
            connection = await asyncio.to_thread(self._open_to_write)
            self._connection = connection
            self._writer = Writer(connection, self._clock, self._bounds.max_topics)
        except BaseException:
            self._lock.release()
            raise
        self._tails.begin({topic.name: topic.head for topic in self._writer.topics.values()})
        self._readers = Readers(self._open_to_read)
        self._groups = GroupCommit(
            self._writer,
            max_bytes=self._bounds.max_uncommitted_bytes,
            commit_seconds=self._bounds.commit_seconds,
            committed=self._committed,
            failed=self._failed,
            traced=self._traced,
        )
        self._groups.start()
        self._health.report("store", State.OK)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        await self._groups.close()
        await self._readers.close()
        self._connection.close()
        self._lock.release()

    async def wait(self) -> None:
        """Never returns; raises `StoreBroken` once the store is."""
        await self._groups.wait()

    def append(self, topic: str, messages: Sequence[Message], size: int) -> Future[tuple[Published, ...]]:
        return self._groups.submit(topic, messages, size)

    async def head(self, topic: str) -> int:
        return self._tails.heads.get(topic, 0)

    async def newest(self, topic: str) -> StoredMessage | None:
        newest = self._tails.newest(topic)
        if newest is not None:
            self._tail_reads += 1
        elif head := self._tails.heads.get(topic):
            self._disk_reads += 1
            for newest in await self._readers.page(topic, head - 1, head, limit=1, max_bytes=0):
                self._tails.remember(newest)
        return newest

    async def read(self, topic: str, after: int, limit: int, max_bytes: int) -> tuple[StoredMessage, ...]:
        found = self._tails.after(topic, after, limit, max_bytes)
        if found is None:
            self._disk_reads += 1
            head = self._tails.heads[topic]
            found = await self._readers.page(topic, after, head, limit=limit, max_bytes=max_bytes)
        elif found:
            self._tail_reads += 1
        return found

    async def topics(self, after: str, limit: int) -> tuple[TopicHead, ...]:
        found = await self._readers.topics(after, limit)
        return tuple(TopicHead(one.topic, self._tails.heads.get(one.topic, 0)) for one in found)

    def first_topics(self, most: int) -> Sequence[str]:
        return list(itertools.islice(self._tails.heads, most))

    async def beyond(self, topic: str, cursor: int) -> None:
        await self._tails.beyond(topic, cursor)

    def release(self) -> None:
        self._tails.release()

    def watch(self, listener: Callable[[Mapping[str, int]], None]) -> Callable[[], None]:
        self._watchers.append(listener)
        return lambda: self._watchers.remove(listener)

    async def cursors(self, reader: str) -> Mapping[str, int] | None:
        return await self._readers.cursors(reader)

    def save_cursors(self, reader: str, cursors: Mapping[str, int]) -> None:
        self._groups.save_cursors(reader, cursors)

    def figures(self) -> Iterator[Figure]:
        heads = self._tails.heads
        yield vocabulary.TOPICS.of(len(heads))
        named = self.first_topics(self._bounds.metrics_topics)
        for topic in named:
            yield vocabulary.LOG_HEAD.of(heads[topic], topic)
        if len(heads) > len(named):
            yield vocabulary.LOG_HEAD.of(self._tails.messages - sum(heads[topic] for topic in named), vocabulary.OTHER)
        yield vocabulary.READS.of(self._tail_reads, "tail")
        yield vocabulary.READS.of(self._disk_reads, "disk")
        yield vocabulary.WAL_BYTES.of(self._writer.wal_bytes)
        if not self._in_memory:
            yield from _free(self._folder)
        yield from bound("tail_bytes", self._tails.bytes, self._tails.max_bytes)
        yield from bound("topics", len(heads), self._bounds.max_topics)
        yield from self._groups.figures()

    def _committed(self, units: Sequence[Unit]) -> None:
        heads = self._tails.extend(unit.stored for unit in units if unit.stored is not None)
        if heads:
            for listener in self._watchers:
                listener(heads)

    def _failed(self, error: TriviumError | None) -> None:
        if error is None:
            self._health.report("store", State.OK)
        else:
            self._health.report("store", State.DEGRADED, f"publishing fails: {error.detail}")

    def _open_to_write(self) -> apsw.Connection:
        connection = self._connect()
        if not self._in_memory:
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("wal_autocheckpoint", 0)  # the writer does it, when it is idle
            connection.pragma("cache_size", -_WRITER_CACHE_KIB)
            # a statement of many rows copies the pages that it changes; past 64 KiB, many topics, else into a file
            connection.pragma("temp_store", "memory")
        migrate(connection)
        if not self._in_memory:
            _sync_folder(self._folder)
        return connection

    def _open_to_read(self) -> apsw.Connection:
        return self._connect(apsw.SQLITE_OPEN_NOMUTEX)  # a quarter of the time of a row: SQLite locks for each column

    def _connect(self, more_flags: int = 0) -> apsw.Connection:
        name = self._memory_name if self._in_memory else str(self._folder / "trivium.db")
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(name, flags=flags | more_flags)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        return connection


def _free(folder: Path) -> Iterator[Figure]:
    """From the kernel's memory, in microseconds; a file system that can't tell must not fail the scrape."""
    with suppress(OSError):
        told = os.statvfs(folder)
        yield vocabulary.FREE_BYTES.of(told.f_bavail * told.f_frsize)


def _sync_folder(folder: Path) -> None:
    """Make the files' names in the folder, and its own name, survive a power cut."""
    for path in (folder, folder.absolute().parent):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
