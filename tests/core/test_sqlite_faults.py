"""What the log in SQLite does when the disk, or somebody else, misbehaves."""

import asyncio
import errno
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from core.errors import DeadlineExceeded, Unavailable
from core.health import Health, State
from core.stores.groups import StoreBroken
from core.stores.sqlite import SqliteLog
from core.stores.writer import Writer
from tests.core.opening import a_log, append, offsets, publishers, some, stored_in, until


@pytest.fixture
async def log(data_dir: str, health: Health) -> AsyncIterator[SqliteLog]:
    """A log in a folder or in memory."""
    async with a_log(data_dir, health) as log:
        yield log


def state(health: Health) -> State:
    return health.checks["store"].state


async def test_a_commit_that_hangs_is_answered_and_told(data_dir: str, health: Health) -> None:
    """`deadline_exceeded`; health is well again with the next commit, and what was stored is seen."""
    async with a_log(data_dir, health, commit_seconds=0.05) as log:
        blocker = log._connect()
        blocker.execute("BEGIN IMMEDIATE")
        answer = log.append("a", some(1), 0)
        with pytest.raises(DeadlineExceeded):
            await answer
        assert state(health) is State.DEGRADED
        blocker.execute("ROLLBACK")
        await until(lambda: log._tails.heads.get("a") == 1)
        assert state(health) is State.OK
        blocker.close()


async def test_a_database_that_another_program_holds_is_unavailable(
    data_dir: str, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was stored, and it passes."""
    monkeypatch.setattr("core.stores.sqlite._BUSY_MILLISECONDS", 1)
    async with a_log(data_dir, health) as log:
        blocker = log._connect()
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="another program"):
            await append(log, "a", *some(1))
        assert state(health) is State.DEGRADED
        blocker.execute("ROLLBACK")
        blocker.close()
        assert (await append(log, "a", *some(1)))[0].offset == 1
        assert state(health) is State.OK


async def test_a_full_disk_fails_the_group_keeps_reads_and_recovers(log: SqliteLog, health: Health) -> None:
    """Nothing partial is stored, of old topics or new ones, and offsets have no gap afterwards."""
    await append(log, "a", *some(5))
    log.save_cursors("r", {"a": 5})
    pages = log._connection.pragma("page_count")
    log._connection.pragma("max_page_count", pages + 3)
    answers = [log.append(topic, some(3, b"x" * 5000), 0) for topic in ("a", "new", "a")]
    for answer in answers:
        with pytest.raises(Unavailable, match="disk is full") as caught:
            await answer
        assert caught.value.retry_after
    assert state(health) is State.DEGRADED
    assert health.ready
    assert offsets(await stored_in(log, "a")) == [1, 2, 3, 4, 5]
    assert await stored_in(log, "new") == []
    assert [one.topic for one in await log.topics("", 10)] == ["a"]
    log._connection.pragma("max_page_count", 10**6)
    assert (await append(log, "new", *some(1)))[0].offset == 1
    assert (await append(log, "a", *some(1)))[0].offset == 6
    assert state(health) is State.OK
    assert offsets(await stored_in(log, "a")) == [1, 2, 3, 4, 5, 6]
    assert await log.cursors("r") == {"a": 5}


async def test_the_write_ahead_log_stays_bounded_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the store is never idle and readers come and go."""
    monkeypatch.setattr("core.stores.writer._CHECKPOINT_BUSY_BYTES", 256 * 1024)
    wal = tmp_path / "trivium.db-wal"
    async with a_log(str(tmp_path), tail_bytes=1024) as log:
        reading = True

        async def reader() -> None:
            cursor = 0
            while reading:
                page = await log.read("t0", cursor, 50, 10**6)
                cursor = page[-1].offset if page else 0
                await asyncio.sleep(0)

        readers = [asyncio.create_task(reader()) for _ in range(4)]
        largest = 0
        for _ in range(20):
            await publishers(log, 4, 5, data=b"x" * 20_000)
            largest = max(largest, wal.stat().st_size)
        reading = False
        await asyncio.wait(readers)
        for task in readers:
            task.result()
    assert largest < 2 * 1024 * 1024 < 20 * 4 * 5 * 20_000


async def test_a_reader_that_stays_is_not_waited_for_at_every_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's backup delays one commit in 64 MiB, a little; once it has gone the write-ahead log starts over."""
    monkeypatch.setattr("core.stores.writer._CHECKPOINT_BUSY_BYTES", 256 * 1024)
    monkeypatch.setattr("core.stores.writer._READERS_MILLISECONDS", 1)
    wal = tmp_path / "trivium.db-wal"
    async with a_log(str(tmp_path)) as log:
        reader = log._connect()
        reader.execute("BEGIN; SELECT * FROM topics").fetchall()
        with capture_logs() as lines:
            for _ in range(80):
                await append(log, "a", *some(1, b"x" * 20_000))
        put_off = [line for line in lines if line["event"] == "checkpoint put off"]
        assert 1 <= len(put_off) <= 20
        reader.execute("ROLLBACK")
        reader.close()
        large = wal.stat().st_size
        for _ in range(40):
            await append(log, "a", *some(1, b"x" * 20_000))
        assert wal.stat().st_size <= large + 300 * 1024


class BadDisk(apsw.VFS):
    """A file system whose fsync fails on command, and whose quota is used up on command."""

    def __init__(self) -> None:
        self.broken = False
        self.over_quota = False
        super().__init__("trivium-bad-disk", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "BadFile":  # noqa: N802
        return BadFile(self, name, flags)

    def xGetLastError(self) -> tuple[int, str | None]:  # noqa: N802
        return (errno.EDQUOT, None) if self.over_quota else super().xGetLastError()


class BadFile(apsw.VFSFile):
    """A file on it."""

    def __init__(self, vfs: BadDisk, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._vfs.broken:
            raise _io_error(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self._vfs.over_quota:
            raise _io_error(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)


def _io_error(code: int) -> Any:
    error: Any = apsw.IOError("it failed")
    error.extendedresult = code
    return error


async def test_a_quota_that_is_used_up_is_a_full_disk(
    tmp_path: Path, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a checkpoint; it passes with the next commit that has room."""
    monkeypatch.setattr("core.stores.groups._IDLE_SECONDS", 60.0)  # the test tidies
    vfs = BadDisk()
    try:
        async with a_log(str(tmp_path), health) as log:
            await append(log, "a", *some(1))
            vfs.over_quota = True
            with pytest.raises(Unavailable, match="disk is full"):
                await append(log, "a", *some(1))
            assert state(health) is State.DEGRADED
            monkeypatch.setattr("core.stores.writer._CHECKPOINT_BYTES", 0)
            log._writer.tidy(idle=True)
            vfs.over_quota = False
            assert (await append(log, "a", *some(1)))[0].offset == 2
            assert state(health) is State.OK
    finally:
        vfs.unregister()


async def test_after_a_failed_fsync_nothing_is_acknowledged_any_more(tmp_path: Path, health: Health) -> None:
    """`wait` raises, so that the process ends; a restart finds out what is durable."""
    vfs = BadDisk()
    try:
        async with a_log(str(tmp_path), health) as log:
            assert (await append(log, "a", *some(1)))[0].offset == 1
            vfs.broken = True
            with pytest.raises(Unavailable, match="outcome is unknown"):
                await append(log, "a", *some(1))
            vfs.broken = False
            with pytest.raises(StoreBroken):
                await log.wait()
            with pytest.raises(Unavailable):
                await append(log, "a", *some(1))
            assert state(health) is State.DEGRADED
            assert offsets(await stored_in(log, "a")) == [1]
    finally:
        vfs.unregister()
    async with a_log(str(tmp_path)) as log:
        found = await stored_in(log, "a")
        assert offsets(found) == list(range(1, len(found) + 1))


async def test_a_failed_fsync_of_a_checkpoint_ends_the_store_too(
    tmp_path: Path, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged before is in the write-ahead log."""
    monkeypatch.setattr("core.stores.writer._CHECKPOINT_BYTES", 0)
    broken, tidy = threading.Event(), Writer.tidy

    def tidy_then(self: Writer, *, idle: bool) -> None:
        assert not self.wal_bytes or broken.wait(60)  # it is idle before the first commit too
        tidy(self, idle=idle)

    monkeypatch.setattr(Writer, "tidy", tidy_then)
    vfs = BadDisk()
    try:
        async with a_log(str(tmp_path), health) as log:
            await append(log, "a", *some(1))
            vfs.broken = True
            broken.set()
            with pytest.raises(StoreBroken):
                await log.wait()
            assert state(health) is State.DEGRADED
            vfs.broken = False
    finally:
        vfs.unregister()
    async with a_log(str(tmp_path)) as log:
        assert offsets(await stored_in(log, "a")) == [1]


async def test_a_read_that_fails_is_unavailable(log: SqliteLog) -> None:
    """Callers get an error of the tree."""
    await append(log, "a", *some(1))
    log._tails.heads["a"] = 2

    def broken(connection: apsw.Connection) -> None:
        connection.execute("SELECT no_such_column FROM messages")

    with pytest.raises(Unavailable, match="can't be read"):
        await log._readers._run(broken)


async def test_a_read_that_fails_leaves_no_cursor_to_others(log: SqliteLog) -> None:
    """Its thread may read again while the loop lets go of the error: connections to read do not lock themselves."""
    await append(log, "a", *some(1))
    cursors: list[weakref.ref[apsw.Cursor]] = []

    def broken(connection: apsw.Connection) -> None:
        cursor = connection.execute("SELECT 1 UNION SELECT 2")
        cursors.append(weakref.ref(cursor))
        raise apsw.IOError("the disk is gone")

    with pytest.raises(Unavailable) as caught:
        await log._readers._run(broken)
    assert isinstance(caught.value.__cause__, apsw.IOError)
    assert cursors[0]() is None
