"""Group commit over a committer that the test holds in its hands."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from core.errors import Conflict, DeadlineExceeded, Internal, Overloaded, TriviumError, Unavailable
from core.limits import Limits
from core.messages import Published, held, new_message
from core.stores.groups import Cursors, GroupCommit, StoreBroken, Unit
from tests.core.opening import alive, some, until


class FakeCommitter:
    """Remembers its groups. It waits at the gate, and raises what the test puts in `failures`."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[str], Cursors]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.failures: list[Exception] = []
        self.tidied: list[bool] = []
        self.tidy_gate = threading.Event()
        self.tidy_gate.set()
        self.untidy: Exception | None = None

    def commit(self, units: Sequence[Unit], cursors: Cursors) -> None:
        self.entered.release()
        self.gate.wait(60)
        self.groups.append(([unit.topic for unit in units], cursors))
        if self.failures:
            raise self.failures.pop(0)
        for unit in units:
            unit.published = tuple(Published(unit.topic, 1, message.id, False) for message in unit.messages)

    def tidy(self, *, idle: bool) -> None:
        self.tidied.append(idle)
        self.tidy_gate.wait(60)
        if self.untidy is not None:
            raise self.untidy

    async def busy(self) -> None:
        """Return once a group is being committed."""
        await asyncio.to_thread(self.entered.acquire)


class Told:
    """What the owner of the groups was told."""

    def __init__(self) -> None:
        self.committed: list[list[str]] = []
        self.failed: list[TriviumError | None] = []


Start = Callable[..., GroupCommit]


@pytest.fixture
def committer() -> FakeCommitter:
    return FakeCommitter()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def start(committer: FakeCommitter, told: Told, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Makes a GroupCommit with bounds as given, and closes it; its thread is never idle for long enough to tidy up."""
    monkeypatch.setattr("core.stores.groups._IDLE_SECONDS", 60.0)
    made: list[GroupCommit] = []

    def starting(max_bytes: int = 10**9, commit_seconds: float = 60.0) -> GroupCommit:
        groups = GroupCommit(
            committer,
            max_bytes=max_bytes,
            commit_seconds=commit_seconds,
            committed=lambda units: told.committed.append([unit.topic for unit in units]),
            failed=told.failed.append,
        )
        groups.start()
        made.append(groups)
        return groups

    yield starting
    committer.gate.set()
    for groups in made:
        await groups.close()


@pytest.fixture
async def groups(start: Start) -> GroupCommit:
    return start()


def publish(groups: GroupCommit, *topics: str) -> list[asyncio.Future[tuple[Published, ...]]]:
    return [groups.submit(topic, some(1), 4) for topic in topics]


async def failure(answer: Awaitable[Any]) -> BaseException:
    """What the answer fails with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the test judges it
        await answer
    return caught.value


@pytest.mark.parametrize("count", [1, 32])
@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f600"])
async def test_a_unit_counts_at_least_the_memory_that_it_takes(letter: str, count: int) -> None:
    """Also where one letter makes Python keep four bytes for each of a text; the bounds in bytes rest on it."""
    attributes = {f"x{number}": "x" * (6000 // count) + letter for number in range(count)}
    message = new_message(b"x" * 1000, attributes=attributes)
    unit = Unit("t", [message], Limits().check(message), asyncio.get_running_loop().create_future())
    texts = sum(sys.getsizeof(name) + sys.getsizeof(value) for name, value in attributes.items())
    taken = sys.getsizeof(message) + sys.getsizeof(message.data) + sys.getsizeof(attributes) + texts
    assert taken <= unit.bytes <= 5 * taken
    assert taken <= held(message) <= 5 * taken


async def test_who_comes_together_is_committed_together(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Those who submit in the same turn share a group, in the order of their calls."""
    topics = [f"t{number}" for number in range(100)]
    for answer in publish(groups, *topics):
        await answer
    assert [units for units, _ in committer.groups] == [topics]
    assert groups.groups == 1


async def test_who_comes_during_a_commit_makes_the_next_group(groups: GroupCommit, committer: FakeCommitter) -> None:
    """One group at a time is under way; nobody waits for a second one."""
    committer.gate.clear()
    first = publish(groups, "a")
    await committer.busy()
    others = publish(groups, "b", "c")
    committer.gate.set()
    for answer in (*first, *others):
        await answer
    assert [units for units, _ in committer.groups] == [["a"], ["b", "c"]]


async def test_the_owner_is_told_before_the_callers_are_answered(groups: GroupCommit, told: Told) -> None:
    """Who published can read it."""
    (answer,) = publish(groups, "a")
    seen: list[list[list[str]]] = []
    answer.add_done_callback(lambda _: seen.append(list(told.committed)))
    await answer
    await asyncio.sleep(0)
    assert seen == [[["a"]]]


async def test_the_error_of_a_unit_is_its_own(groups: GroupCommit, committer: FakeCommitter) -> None:
    """The rest of the group is stored."""
    original = committer.commit

    def commit(units: Sequence[Unit], cursors: Cursors) -> None:
        original(units, cursors)
        units[0].error = Conflict("other content")

    committer.commit = commit  # type: ignore[method-assign]
    bad, good = publish(groups, "a", "b")
    assert isinstance(await failure(bad), Conflict)
    assert (await good)[0].topic == "b"


async def test_a_caller_that_has_gone_hurts_nobody(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Its message is stored all the same."""
    gone, stays = publish(groups, "a", "b")
    gone.cancel()
    await stays
    assert committer.groups[0][0] == ["a", "b"]


@pytest.mark.parametrize(
    ("raised", "answered"), [(Unavailable("full"), Unavailable), (ValueError("a defect"), Internal)]
)
async def test_a_group_that_fails_is_answered_and_the_next_one_goes_on(
    groups: GroupCommit, committer: FakeCommitter, told: Told, raised: Exception, answered: type[TriviumError]
) -> None:
    """One failure is not the end."""
    committer.failures = [raised]
    (answer,) = publish(groups, "a")
    assert isinstance(await failure(answer), answered)
    (answer,) = publish(groups, "b")
    await answer
    assert [type(error) for error in told.failed] == [answered, type(None)]
    assert told.committed == [["b"]]
    assert groups.groups == 1


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_group_that_failed_waits_for_a_collection(
    groups: GroupCommit, committer: FakeCommitter
) -> None:
    """A full disk fails one group after another, and each may hold all that may wait."""
    before = alive(Unit)
    committer.failures = [Unavailable("full")]
    (answer,) = publish(groups, "a")
    await failure(answer)
    async with asyncio.timeout(20):
        await until(lambda: alive(Unit) <= before)


async def test_the_bytes_that_wait_are_bounded(start: Start, committer: FakeCommitter) -> None:
    """Those under way count; one unit is always let in, however large; what was answered makes room."""
    groups = start(max_bytes=3000)
    committer.gate.clear()
    first = publish(groups, "a")
    await committer.busy()
    second = publish(groups, "b")
    with pytest.raises(Overloaded, match="at most 3000") as caught:
        groups.submit("c", some(1), 1000)
    assert caught.value.retry_after
    committer.gate.set()
    for answer in (*first, *second):
        await answer
    await groups.submit("d", some(1), 10_000)
    assert [units for units, _ in committer.groups] == [["a"], ["b"], ["d"]]


async def test_a_commit_that_hangs_is_answered_and_what_waits_behind_it_is_dropped(
    start: Start, committer: FakeCommitter, told: Told
) -> None:
    """The outcome of the group is unknown, that of the rest is: nothing. Nobody waits for ever, no bytes are lost."""
    groups = start(max_bytes=3000, commit_seconds=0.02)
    committer.gate.clear()
    (first,) = publish(groups, "a")
    await committer.busy()
    (second,) = publish(groups, "b")
    assert isinstance(await failure(first), DeadlineExceeded)
    assert isinstance(await failure(second), DeadlineExceeded)
    assert isinstance(told.failed[0], DeadlineExceeded)
    (third,) = publish(groups, "c")  # the dropped one made room
    groups._commit_seconds = 60.0  # the deadline that runs is the last one to end soon
    assert isinstance(await failure(third), DeadlineExceeded)
    (fourth,) = publish(groups, "d")
    committer.gate.set()
    await fourth
    assert [units for units, _ in committer.groups] == [["a"], ["d"]]
    assert told.committed == [["a"], ["d"]]
    assert told.failed[-1] is None
    await groups.submit("e", some(2), 900)


async def test_closing_commits_what_waits(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Behind a group that is under way, with the cursors, and then nothing is taken any more."""
    committer.gate.clear()
    first = publish(groups, "a")
    await committer.busy()
    rest = publish(groups, "b", "c")
    groups.save_cursors("reader", {"a": 1})
    closing = asyncio.create_task(groups.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        publish(groups, "d")
    committer.gate.set()
    await closing
    assert all(answer.done() and answer.exception() is None for answer in (*first, *rest))
    assert committer.groups == [(["a"], {}), (["b", "c"], {"reader": {"a": 1}})]


async def test_closing_writes_cursors_alone(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Also if no message waits."""
    groups.save_cursors("reader", {"a": 1})
    await groups.close()
    assert committer.groups == [([], {"reader": {"a": 1}})]


async def test_closing_ends_though_the_group_fails(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Cursors that can't be written then are not tried again for ever."""
    committer.failures = [Unavailable("full")] * 3
    groups.save_cursors("reader", {"a": 1})
    (answer,) = publish(groups, "a")
    await groups.close()
    assert isinstance(await failure(answer), Unavailable)
    assert len(committer.groups) == 1


async def test_cursors_travel_with_the_next_group(groups: GroupCommit, committer: FakeCommitter) -> None:
    """The newest of each topic; they cost no commit of their own."""
    groups.save_cursors("reader", {"a": 1, "b": 1})
    groups.save_cursors("reader", {"a": 2})
    groups.save_cursors("other", {})
    await publish(groups, "t")[0]
    assert committer.groups == [(["t"], {"reader": {"a": 2, "b": 1}, "other": {}})]


async def test_cursors_that_no_group_takes_are_written_by_themselves(
    groups: GroupCommit, committer: FakeCommitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second."""
    monkeypatch.setattr("core.stores.groups._CURSOR_SECONDS", 0.01)
    groups.save_cursors("reader", {"a": 1})
    await committer.busy()
    await groups.close()
    assert committer.groups == [([], {"reader": {"a": 1}})]


async def test_cursors_of_a_group_that_failed_are_due_again(
    groups: GroupCommit, committer: FakeCommitter, told: Told
) -> None:
    """A full disk costs no cursor, and an older one does not replace a newer one."""
    committer.failures = [Unavailable("full")]
    committer.gate.clear()
    groups.save_cursors("reader", {"a": 1, "b": 1})
    (answer,) = publish(groups, "t")
    await committer.busy()
    groups.save_cursors("reader", {"a": 2})
    committer.gate.set()
    await failure(answer)
    await publish(groups, "u")[0]
    assert committer.groups[1:] == [(["u"], {"reader": {"a": 2, "b": 1}})]


async def test_after_a_group_of_unknown_outcome_nothing_is_committed_any_more(
    groups: GroupCommit, committer: FakeCommitter
) -> None:
    """`StoreBroken`: who waits, waits behind it or comes later is answered, and `wait` raises."""
    committer.failures = [StoreBroken("fsync")]
    committer.gate.clear()
    waiting = asyncio.create_task(groups.wait())
    (first,) = publish(groups, "a")
    await committer.busy()
    (second,) = publish(groups, "b")
    groups.save_cursors("reader", {"a": 1})
    committer.gate.set()
    assert isinstance(await failure(first), Unavailable)
    assert isinstance(await failure(second), Unavailable)
    with pytest.raises(Unavailable):
        publish(groups, "c")
    groups.save_cursors("reader", {"a": 2})
    assert isinstance(await failure(waiting), StoreBroken)
    await groups.close()
    assert len(committer.groups) == 1
    assert committer.tidied == []


@pytest.mark.parametrize("error", [StoreBroken("fsync"), ValueError("a defect")])
async def test_upkeep_that_fails_ends_the_store_loudly(
    groups: GroupCommit, committer: FakeCommitter, error: Exception
) -> None:
    """Whatever it was: a thread that died in silence would leave everybody waiting."""
    committer.untidy = error
    (answer,) = publish(groups, "a")
    await answer
    assert isinstance(await failure(groups.wait()), StoreBroken)
    with pytest.raises(Unavailable):
        publish(groups, "b")
    await groups.close()


async def test_a_group_handed_to_a_thread_that_has_ended_is_answered(
    groups: GroupCommit, committer: FakeCommitter
) -> None:
    """Upkeep fails behind the first group, while the second is on its way."""
    committer.untidy = StoreBroken("fsync")
    committer.tidy_gate.clear()
    await publish(groups, "a")[0]
    (second,) = publish(groups, "b")
    await until(lambda: groups._in_flight is not None)
    committer.tidy_gate.set()
    assert isinstance(await failure(second), Unavailable)
    assert isinstance(await failure(groups.wait()), StoreBroken)
    await groups.close()
    assert [units for units, _ in committer.groups] == [["a"]]


async def test_closing_ends_though_upkeep_fails_under_way(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Nobody waits for a thread that has ended."""
    committer.untidy = StoreBroken("fsync")
    committer.tidy_gate.clear()
    await publish(groups, "a")[0]
    (second,) = publish(groups, "b")
    await until(lambda: groups._in_flight is not None)
    closing = asyncio.create_task(groups.close())
    await asyncio.sleep(0)
    committer.tidy_gate.set()
    await closing
    assert isinstance(await failure(second), Unavailable)


async def test_upkeep_runs_after_a_group_and_once_when_idle(groups: GroupCommit, committer: FakeCommitter) -> None:
    """Constant load must not put it off for ever."""
    await publish(groups, "a")[0]
    await groups.close()
    assert False in committer.tidied
