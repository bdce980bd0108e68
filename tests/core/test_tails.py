"""The newest messages in memory."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import Message, StoredMessage, held, new_message, weight
from core.stores.runs import Run
from core.stores.tails import _RUN_BYTES, Tails
from tests.core.opening import offsets

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def message(size: int = 10) -> Message:
    return new_message(b"x" * size)


def stored(topic: str, offset: int) -> StoredMessage:
    return StoredMessage(topic, offset, NOW, message())


def run(topic: str, first: int, *sizes: int, time: datetime | None = None) -> Run:
    """What one publication stored: messages of these sizes; in a commit of its own unless a time is given."""
    messages = [message(size) for size in sizes]
    return Run(topic, first, time or datetime.now(UTC), messages, sum(map(held, messages)))


#: What one such message counts.
COST = held(message())


def some(topic: str, first: int, last: int) -> list[Run]:
    """Each of them committed alone."""
    return [run(topic, offset, 10) for offset in range(first, last + 1)]


def test_what_was_committed_can_be_read_from_any_cursor() -> None:
    """Within the limits of a page; nothing after the head."""
    tails = Tails(COST * 10)
    assert tails.extend(some("a", 1, 5)) == {"a": 5}
    for cursor in range(6):
        found = tails.after("a", cursor, 2, 10**9)
        assert found is not None
        assert offsets(found) == list(range(cursor + 1, min(cursor + 3, 6)))
    assert tails.after("a", 9, 10, 10**9) == ()
    assert tails.after("b", 0, 10, 10**9) == ()
    newest = tails.newest("a")
    assert newest is not None
    assert newest.offset == 5


def test_a_page_holds_one_message_however_large_and_else_keeps_to_its_bytes() -> None:
    """As `MessageLog.read` promises."""
    tails = Tails(COST * 10)
    tails.extend(some("a", 1, 5))
    one = weight(message())
    assert [len(tails.after("a", 0, 10, size) or ()) for size in (0, one, 2 * one - 1, 2 * one, 9 * one)] == [
        1,
        1,
        1,
        2,
        5,
    ]


def test_the_oldest_of_all_topics_leave_first() -> None:
    """The bound is over all; a cursor before what is left is told to read from disk."""
    tails = Tails(COST * 4)
    tails.extend([*some("a", 1, 2), *some("b", 1, 2), *some("a", 3, 3)])
    assert tails.bytes == COST * 4
    assert tails.after("a", 0, 10, 10**9) is None
    assert offsets(tails.after("a", 1, 10, 10**9) or ()) == [2, 3]
    assert offsets(tails.after("b", 0, 10, 10**9) or ()) == [1, 2]
    tails.extend(some("c", 1, 4))
    assert tails.newest("a") is None
    assert tails.after("a", 2, 10, 10**9) is None
    assert tails.after("a", 3, 10, 10**9) == ()
    assert tails.heads == {"a": 3, "b": 2, "c": 4}


def test_a_message_larger_than_the_bound_is_not_kept() -> None:
    """Memory is bounded under any load."""
    tails = Tails(COST)
    tails.extend([run("a", 1, 10), run("a", 2, 10_000)])
    assert tails.bytes == 0
    assert tails.newest("a") is None
    tails.extend(some("a", 3, 3))
    assert offsets(tails.after("a", 2, 9, 9) or ()) == [3]


def test_the_newest_read_from_disk_is_kept_if_it_still_is_the_newest() -> None:
    """Neither an older one nor a second copy gets in."""
    tails = Tails(COST * 2)
    tails.heads["a"] = 7
    tails.remember(stored("a", 6))
    assert tails.newest("a") is None
    tails.remember(stored("a", 7))
    tails.remember(stored("a", 7))
    tails.remember(stored("b", 1))
    assert tails.bytes == COST
    tails.extend(some("a", 8, 8))
    assert offsets(tails.after("a", 6, 9, 10**9) or ()) == [7, 8]


@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (4, 1, 2), (1, 1, 5), (7,)])
def test_messages_that_were_published_together_are_read_like_all_others(sizes: tuple[int, ...]) -> None:
    """From any cursor, to any limit, within any bytes; each has its time, its own or that of its commit."""
    given = datetime(2020, 1, 1, tzinfo=UTC)
    tails = Tails(COST * 100)
    first = 1
    for count in sizes:
        messages = [new_message(b"x" * 10, time=given if index else None) for index in range(count)]
        tails.extend([Run("a", first, NOW, messages, COST)])
        assert tails.newest("a") == StoredMessage("a", first + count - 1, given if count > 1 else NOW, messages[-1])
        first += count
    one = weight(message())
    for cursor in range(first):
        for limit in range(1, first):
            for fit in range(1, limit + 1):
                found = tails.after("a", cursor, limit, fit * one)
                assert found is not None
                assert offsets(found) == list(range(cursor + 1, min(cursor + fit + 1, first)))
    assert tails.after("a", 0, 1, 0) == tails.after("a", 0, 1, 10**9)
    assert tails.messages == first - 1


def test_small_runs_of_one_commit_are_joined() -> None:
    """By topic, up to a bound, and in what was committed together only; what is read is the same."""
    size = _RUN_BYTES // 4
    tails = Tails(_RUN_BYTES * 10)
    tails.extend([run(topic, offset, size, time=NOW) for offset in range(1, 8) for topic in "ab"])
    tails.extend([run("a", 8, size, time=NOW)])
    assert [len(one.messages) for one in tails._tails["a"].runs] == [3, 3, 1, 1]
    assert sum(one.bytes for tail in tails._tails.values() for one in tail.runs) == tails.bytes
    assert (tails.heads, tails.messages) == ({"a": 8, "b": 7}, 15)
    for topic, head in tails.heads.items():
        for cursor in range(head):
            assert offsets(tails.after(topic, cursor, 1000, 10**9) or ()) == list(range(cursor + 1, head + 1))


def test_what_was_published_together_leaves_together() -> None:
    """A cursor within it is then told to read from disk."""
    tails = Tails(COST * 24)
    tails.extend([run("a", 1, 10, 10, 10), *some("a", 4, 24)])
    assert offsets(tails.after("a", 1, 99, 10**9) or ()) == list(range(2, 25))
    tails.extend(some("b", 1, 1))
    assert tails.bytes == COST * 22
    assert tails.after("a", 2, 99, 10**9) is None
    assert offsets(tails.after("a", 3, 99, 10**9) or ()) == list(range(4, 25))


def test_of_a_run_larger_than_the_bound_the_newest_stay() -> None:
    """One large batch does not send every reader to disk."""
    tails = Tails(COST * 16)
    tails.extend(some("a", 1, 3))
    tails.extend([run("a", 4, *[10] * 100)])
    assert tails.bytes == COST * 16
    assert offsets(tails.after("a", 87, 100, 10**9) or ()) == list(range(88, 104))
    assert tails.after("a", 86, 100, 10**9) is None
    assert tails.newest("a") == (tails.after("a", 102, 1, 0) or ())[0]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.booleans()),
        max_size=40,
    ),
    st.integers(0, 6 * COST),
)
def test_whatever_is_evicted_what_is_left_has_no_gap(commits: list[tuple[str, list[int], bool]], bound: int) -> None:
    """A read is answered in full or sent to disk, and the bytes are those of what is left."""
    tails = Tails(bound)
    heads = dict.fromkeys("abc", 0)
    for topic, sizes, together in commits:
        first = heads[topic] + 1
        heads[topic] += len(sizes)
        alone = [run(topic, offset, size, time=NOW) for offset, size in enumerate(sizes, first)]
        tails.extend([run(topic, first, *sizes)] if together else alone)
        assert tails.bytes <= bound
        kept = 0
        for one, head in heads.items():
            for cursor in range(head):
                found = tails.after(one, cursor, 1000, 10**9)
                assert found is None or offsets(found) == list(range(cursor + 1, head + 1))
            oldest = next((c for c in range(head) if tails.after(one, c, 1000, 10**9) is not None), head)
            kept += sum(held(m.message) for m in tails.after(one, oldest, 1000, 10**9) or ())
        assert tails.bytes == kept


async def test_many_wait_for_one_message() -> None:
    """All are woken, also those who wait for a later one, who go on waiting."""
    tails = Tails(COST * 10)
    now = [asyncio.create_task(tails.beyond("a", 0)) for _ in range(50)]
    later = asyncio.create_task(tails.beyond("a", 1))
    await asyncio.sleep(0)
    tails.extend(some("b", 1, 1))
    tails.extend(some("a", 1, 1))
    for task in now:
        await task
    assert not later.done()
    tails.extend(some("a", 2, 2))
    await later
    await tails.beyond("a", 0)


async def test_who_gives_up_leaves_nothing_behind() -> None:
    """A wait on a topic that never comes costs no memory afterwards."""
    tails = Tails(COST)
    waits = [asyncio.create_task(tails.beyond(f"t{number}", 0)) for number in range(10)]
    await asyncio.sleep(0)
    assert len(tails._tails) == 10
    for task in waits:
        task.cancel()
    await asyncio.wait(waits)
    assert not tails._tails


async def test_eviction_forgets_nobody_who_waits() -> None:
    """A topic without messages in memory still wakes its readers."""
    tails = Tails(COST)
    tails.extend(some("a", 1, 1))
    waiting = asyncio.create_task(tails.beyond("a", 1))
    await asyncio.sleep(0)
    tails.extend(some("b", 1, 1))
    assert tails.newest("a") is None
    tails.extend([run("a", 2, 10_000)])
    await waiting
    assert not tails._tails


async def test_release_lets_everybody_go_for_good() -> None:
    """The service is ending."""
    tails = Tails(COST)
    waiting = asyncio.create_task(tails.beyond("a", 0))
    await asyncio.sleep(0)
    tails.release()
    await waiting
    await tails.beyond("b", 5)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_bound_is_exact(extra: int) -> None:
    """Two messages fit in the bytes of two."""
    tails = Tails(COST * 2 - extra)
    tails.extend(some("a", 1, 2))
    assert tails.bytes == COST * (2 - extra)
