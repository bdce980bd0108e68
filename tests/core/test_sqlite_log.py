"""The log in SQLite, in a folder and in memory."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import apsw
import pytest

from core.errors import Conflict, Internal, Overloaded, TooLarge, Unavailable
from core.health import Health
from core.messages import StoredMessage, new_message
from core.settings import MEMORY
from core.stores.groups import Unit
from core.stores.lock import StoreLocked
from core.stores.schema import MIGRATIONS, UnknownSchema
from core.stores.sqlite import SqliteLog
from core.telemetry.vocabulary import READS
from tests.core.opening import a_log, alive, append, offsets, publishers, some, stored_in, until

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs/operations.md").read_text()


@pytest.fixture
async def log(data_dir: str, health: Health) -> AsyncIterator[SqliteLog]:
    """A log in a folder or in memory."""
    async with a_log(data_dir, health) as log:
        yield log


async def test_offsets_have_no_gaps_under_concurrency(log: SqliteLog) -> None:
    """Over many topics, batches and single messages, duplicates and conflicts in between."""

    async def publisher(number: int) -> None:
        for turn in range(10):
            topic = f"t{(number + turn) % 7}"
            await append(log, topic, *some(1 + turn % 3))
            await append(log, topic, new_message(b"same", id="same"))
            with pytest.raises(Conflict):
                await append(log, topic, *some(2), new_message(b"other", id="same"))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(publisher(number))
    total = 0
    for head in await log.topics("", 100):
        found = await stored_in(log, head.topic)
        assert offsets(found) == list(range(1, head.head + 1))
        assert await log.head(head.topic) == head.head
        total += head.head
    assert total == 20 * (10 + 9) + 7
    assert log.groups.messages == total


async def test_a_batch_that_was_mostly_stored_before_pushes_nobody_out_of_memory(data_dir: str) -> None:
    """In memory it takes what is new of it."""
    async with a_log(data_dir, tail_bytes=16 * 1024 * 1024) as log:
        await append(log, "other", *some(1))
        batch = some(500, b"x" * 1000)
        await append(log, "a", *batch)
        for _ in range(20):
            await append(log, "a", *batch, *some(1))
        assert log._tails.newest("other") is not None
        assert offsets(log._tails.after("a", 0, 1000, 10**9) or ()) == list(range(1, 521))


async def test_commit_order_is_offset_order(log: SqliteLog) -> None:
    """Whoever watches or follows sees offsets rise by one, and what it sees can be read."""
    seen: list[int] = []
    unwatch = log.watch(lambda heads: seen.append(heads["a"]))
    answers = [log.append("a", some(2), 0) for _ in range(50)]
    firsts = [(await answer)[0].offset for answer in answers]
    assert firsts == list(range(1, 100, 2))
    assert seen == sorted(seen)
    assert seen[-1] == 100
    unwatch()
    await append(log, "a", *some(1))
    assert seen[-1] == 100


async def test_concurrent_publishers_share_commits(log: SqliteLog) -> None:
    """32 of them cost far fewer groups than messages."""
    await publishers(log, 32, 20)
    assert log.groups.messages == 640
    assert log.groups.groups < 640 / 4


async def test_a_lone_publish_is_committed_alone(log: SqliteLog) -> None:
    """It waits for nobody."""
    for _ in range(3):
        await append(log, "a", *some(1))
    assert log.groups.groups == 3


async def test_reading_is_the_same_from_memory_and_from_disk(data_dir: str) -> None:
    """Every attribute, every limit."""
    full = new_message(
        "ü".encode(),
        id="ä",
        source="urn:s",
        type="t",
        content_type="text/plain",
        subject="s",
        key="k",
        attributes={"a": '"\u20ac\\', "b": ""},
    )
    messages = [full, *some(9, b""), new_message(bytes(range(256)))]
    async with (
        a_log(data_dir) as cached,
        a_log(data_dir + "2" if data_dir != MEMORY else MEMORY, tail_bytes=1024) as cold,
    ):
        for log in (cached, cold):
            await append(log, "a", *messages)
        assert cold._tails.bytes == 0
        for after in range(12):
            for limit in (1, 3, 100):
                for size in (0, 1000, 10**6):
                    warm, disk = [await log.read("a", after, limit, size) for log in (cached, cold)]
                    assert [one.message for one in warm] == [one.message for one in disk]
                    assert offsets(warm) == offsets(disk)
        assert [one.message for one in await stored_in(cold, "a")] == messages
        newest = await cold.newest("a")
        assert newest is not None
        assert newest.message == messages[-1]
        assert await cold.newest("b") is None


async def test_a_follower_that_lags_catches_up_from_disk_while_it_is_written(data_dir: str) -> None:
    """Without a gap or a repetition, among topics that push each other out of memory."""
    async with a_log(data_dir, tail_bytes=20_000) as log:

        async def follower(topic: str) -> list[StoredMessage]:
            found: list[StoredMessage] = []
            while len(found) < 300:
                await log.beyond(topic, len(found))
                found += await log.read(topic, len(found), 7, 10**6)
            return found

        followers = [asyncio.create_task(follower(f"t{number % 3}")) for number in range(12)]
        await publishers(log, 30, 30, topics=3)
        for task in followers:
            assert offsets(await task) == list(range(1, 301))
        assert log._tails.bytes <= 20_000


async def test_a_read_never_shows_more_than_the_head(data_dir: str) -> None:
    """The file is ahead of what was announced between a commit and its wake-up: no cursor from there is refused."""
    async with a_log(data_dir, tail_bytes=1024) as log:
        await append(log, "a", *some(2))
        log._tails.heads["a"] = 1
        assert offsets(await log.read("a", 0, 10, 10**6)) == [1]
        assert [one.head for one in await log.topics("", 10)] == [1]


async def test_topics_are_read_by_name(log: SqliteLog) -> None:
    """In pages."""
    for name in ("b", "a", "c"):
        await append(log, name, *some(2))
    assert [(one.topic, one.head) for one in await log.topics("", 2)] == [("a", 2), ("b", 2)]
    assert [(one.topic, one.head) for one in await log.topics("b", 2)] == [("c", 2)]


async def test_a_topic_is_never_listed_ahead_of_its_head(log: SqliteLog) -> None:
    """The file may be a commit ahead of what was announced."""
    await append(log, "a", *some(1))
    del log._tails.heads["a"]
    assert [(one.topic, one.head) for one in await log.topics("", 10)] == [("a", await log.head("a"))]


async def test_cursors_are_kept_per_reader(log: SqliteLog) -> None:
    """A reader that saved none is unknown; one that saved an empty mapping is not."""
    await append(log, "a", *some(1))
    assert await log.cursors("r") is None
    log.save_cursors("r", {})
    await append(log, "a", *some(1))
    assert await log.cursors("r") == {}
    log.save_cursors("r", {"a": 1, "never-was": 5})
    log.save_cursors("s", {"a": 2})
    await append(log, "a", *some(1))
    assert await log.cursors("r") == {"a": 1}
    assert await log.cursors("s") == {"a": 2}


async def test_the_number_of_topics_is_bounded(data_dir: str) -> None:
    """One more is too many; those that are there go on, and a name that was refused costs nothing."""
    async with a_log(data_dir, max_topics=2) as log:
        await append(log, "a", *some(1))
        with pytest.raises(Conflict):
            await append(log, "x", new_message(b"1", id="1"), new_message(b"2", id="1"))
        await append(log, "b", *some(1))
        with pytest.raises(TooLarge, match="2 topics") as caught:
            await append(log, "c", *some(1))
        assert caught.value.field == "topic"
        assert (await append(log, "a", *some(1)))[0].offset == 2


async def test_a_topic_that_was_refused_takes_nobodys_place(data_dir: str) -> None:
    """Not even for those in its group."""
    async with a_log(data_dir, max_topics=1) as log:
        twice = [new_message(b"1", id="1"), new_message(b"2", id="1")]
        refused, stored = append(log, "refused", *twice), append(log, "stored", *some(1))
        results = await asyncio.gather(refused, stored, return_exceptions=True)
    assert isinstance(results[0], Conflict)
    assert results[1][0].offset == 1  # type: ignore[index]


async def test_a_topic_that_was_refused_does_not_use_up_a_number(log: SqliteLog) -> None:
    """There are 2**23, and a message that conflicts with itself must not cost one."""
    for number in range(20):
        with pytest.raises(Conflict):
            await append(log, f"x{number}", new_message(b"1", id="1"), new_message(b"2", id="1"))
    await append(log, "a", *some(1))
    await append(log, "b", *some(1))
    assert sorted(topic.number for topic in log._writer.topics.values()) == [1, 2]
    assert offsets(await stored_in(log, "a")) == [1]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("absurd", [{"time": "no time"}, {"subject": object()}, {"attributes": {"x": "\ud800"}}])
async def test_a_message_that_can_not_be_stored_fails_alone(
    log: SqliteLog, absurd: dict[str, Any], is_new: bool
) -> None:
    """A defect of a caller is `internal`, and leaves neither a row nor a gap, in a topic that is new or not."""
    before = 0 if is_new else (await append(log, "a", *some(1)))[0].offset
    good = log.append("a", some(1), 0)
    bad = log.append("a", [*some(1), new_message(b"", **absurd)], 0)
    last = log.append("a", some(1), 0)
    assert [(await good)[0].offset, (await last)[0].offset] == [before + 1, before + 2]
    with pytest.raises(Internal, match="could not be stored"):
        await bad
    assert offsets(await stored_in(log, "a")) == list(range(1, before + 3))


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_message_that_was_refused_waits_for_a_collection(log: SqliteLog) -> None:
    """Whoever says something else under a known id can't fill the memory with it."""
    before = alive(Unit)
    message = new_message(b"1")
    await append(log, "t", message)
    for _ in range(2):
        with pytest.raises(Conflict):
            await append(log, "t", new_message(b"2", id=message.id))
    async with asyncio.timeout(20):
        await until(lambda: alive(Unit) <= before)


async def test_a_large_group_with_one_repeat_is_stored_like_any_other(log: SqliteLog) -> None:
    """Rows that went in with a repeat are taken back: each message stands once, in the order of the calls."""
    await append(log, "a", new_message(b"0", id="first"))
    await append(log, "b", *some(1))
    units = [log.append(("a", "b")[number % 2], some(30), 0) for number in range(20)]
    repeat = log.append("a", [new_message(b"0", id="first")], 0)
    last = log.append("a", some(1), 0)
    assert [(await unit)[0].offset for unit in units] == [2 + 30 * (number // 2) for number in range(20)]
    assert [(one.offset, one.duplicate) for one in await repeat] == [(1, True)]
    assert [(one.offset, one.duplicate) for one in await last] == [(302, False)]
    assert [await log.head("a"), await log.head("b")] == [302, 301]
    assert offsets(await stored_in(log, "a")) == list(range(1, 303))


async def test_what_waits_is_bounded_in_bytes(data_dir: str) -> None:
    """One more is told to come later, and it has no effect."""
    async with a_log(data_dir, max_uncommitted_bytes=4000) as log:
        first = log.append("a", some(1), 2000)
        with pytest.raises(Overloaded) as caught:
            log.append("a", some(1), 2000)
        assert caught.value.retry_after
        await first
        await append(log, "a", *some(1))
        assert await log.head("a") == 2


async def test_who_waits_is_woken_by_the_commit_or_the_end(log: SqliteLog) -> None:
    """Never by anything else."""
    waiting = asyncio.create_task(log.beyond("a", 1))
    await append(log, "a", *some(1))
    assert not waiting.done()
    await append(log, "a", *some(1))
    await waiting
    waiting = asyncio.create_task(log.beyond("a", 2))
    await asyncio.sleep(0)
    log.release()
    await waiting


async def test_closing_stores_what_was_accepted(tmp_path: Path) -> None:
    """All of it is there after reopening, and all callers are answered."""
    async with a_log(str(tmp_path)) as log:
        answers = [log.append("a", some(1), 0) for _ in range(100)]
    assert [(await answer)[0].offset for answer in answers] == list(range(1, 101))
    with pytest.raises(Unavailable):
        log.append("a", some(1), 0)
    async with a_log(str(tmp_path)) as log:
        assert offsets(await stored_in(log, "a")) == list(range(1, 101))
        assert (await append(log, "a", *some(1)))[0].offset == 101


async def test_the_documented_backup_is_a_log(tmp_path: Path) -> None:
    """Taken while others publish, it holds what was acknowledged before, and goes on from there."""
    ((copy, there),) = re.findall(r'^sqlite3 data/trivium.db "(VACUUM INTO \'(.*)\')"$', RUNBOOK, re.MULTILINE)
    backup = tmp_path / "backup"
    backup.mkdir()

    def back_up() -> None:
        source = apsw.Connection(str(tmp_path / "data/trivium.db"), flags=apsw.SQLITE_OPEN_READWRITE)
        source.execute(copy.replace(there, str(backup / "trivium.db")))
        source.close()

    async with a_log(str(tmp_path / "data")) as log:
        await append(log, "t", *some(2000))
        publishing = asyncio.create_task(publishers(log, 10, 50))
        await asyncio.to_thread(back_up)
        await publishing
    async with a_log(str(backup)) as log:
        assert offsets(await stored_in(log, "t")) == list(range(1, 2001))
        assert offsets(await stored_in(log, "t0")) == list(range(1, await log.head("t0") + 1))
        assert (await append(log, "t", *some(1)))[0].offset == 2001


async def test_reopening_finds_identities_and_cursors(tmp_path: Path) -> None:
    """A retry may come after a restart."""
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", new_message(b"1", id="1"))
        log.save_cursors("r", {"a": 1})
    async with a_log(str(tmp_path)) as log:
        assert await log.cursors("r") == {"a": 1}
        assert (await append(log, "a", new_message(b"1", id="1")))[0].duplicate
        with pytest.raises(Conflict):
            await append(log, "a", new_message(b"2", id="1"))
        await append(log, "b", *some(1))
        assert sorted(topic.number for topic in log._writer.topics.values()) == [1, 2]


async def test_logs_in_memory_are_apart_and_end_with_their_closing() -> None:
    """Tests do not see each other's messages."""
    async with a_log(MEMORY) as one, a_log(MEMORY) as other:
        await append(one, "a", *some(1))
        assert await stored_in(other, "a") == []
    async with a_log(MEMORY) as one:
        assert await one.topics("", 10) == ()


async def test_a_commit_goes_through_fsync(tmp_path: Path) -> None:
    """WAL and synchronous=FULL are what the file really has."""
    async with a_log(str(tmp_path)) as log:
        assert log._connection.pragma("journal_mode") == "wal"
        assert log._connection.pragma("synchronous") == 2
        await append(log, "a", *some(1))
        assert (tmp_path / "trivium.db-wal").stat().st_size > 0
    assert not (tmp_path / "trivium.db-wal").exists()


async def test_a_second_log_on_the_folder_is_refused(tmp_path: Path) -> None:
    """It names the process that has it, and hurts nobody; afterwards the folder is free."""
    async with a_log(str(tmp_path)) as log:
        with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}$"):
            await a_log(str(tmp_path)).__aenter__()
        await append(log, "a", *some(1))
    async with a_log(str(tmp_path)) as log:
        assert await log.head("a") == 1


async def test_a_second_process_on_the_folder_is_refused(tmp_path: Path) -> None:
    """Until the first one has ended, however it ended."""
    code = (
        "import asyncio, sys\n"
        "from tests.core.opening import a_log\n"
        "async def main():\n"
        "    async with a_log(sys.argv[1]):\n"
        "        print('open', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path), cwd=ROOT, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    with pytest.raises(StoreLocked, match=f"in use by process {process.pid}$"):
        await a_log(str(tmp_path)).__aenter__()
    process.kill()
    await process.wait()
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(1))


async def test_data_of_a_newer_trivium_is_refused(tmp_path: Path) -> None:
    """It is left as it is, and the folder is free again."""
    connection = apsw.Connection(str(tmp_path / "trivium.db"))
    connection.pragma("user_version", len(MIGRATIONS) + 1)
    with pytest.raises(UnknownSchema, match=f"its schema is {len(MIGRATIONS) + 1}"):
        await a_log(str(tmp_path)).__aenter__()
    connection.pragma("user_version", 0)
    connection.close()
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(1))


async def test_counts_where_reads_were_served_from(tmp_path: Path) -> None:
    """The newest message too: from the disk after a start, from memory from then on."""
    async with a_log(str(tmp_path)) as log:
        await append(log, "a", *some(1))
    async with a_log(str(tmp_path)) as log:
        for _ in range(3):
            assert await log.newest("a") is not None
        assert await log.newest("none") is None
        reads = {figure.labels: figure.value for figure in log.figures() if figure.metric is READS}
        assert reads == {("tail",): 2, ("disk",): 1}


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """With SQLite's own words."""
    (tmp_path / "trivium.db").write_bytes(b"no database" * 1000)
    with pytest.raises(apsw.NotADBError):
        await a_log(str(tmp_path)).__aenter__()


async def test_migrations_bring_an_empty_file_to_the_newest_schema(tmp_path: Path) -> None:
    """Once; the second opening finds nothing to do."""
    for _ in range(2):
        async with a_log(str(tmp_path)) as log:
            assert log._connection.pragma("user_version") == len(MIGRATIONS)


async def test_a_new_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Others do not read past the doors what is behind rights there; a folder that was there before keeps its mode."""
    made, kept = tmp_path / "made", tmp_path / "kept"
    kept.mkdir(mode=0o750)
    for folder, mode in ((made, 0o700), (kept, 0o750)):
        async with a_log(str(folder)):
            assert folder.stat().st_mode & 0o777 == mode
