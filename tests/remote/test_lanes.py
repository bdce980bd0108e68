"""Publishing in the order of the calls."""

import asyncio
from collections.abc import Sequence

import pytest

from core.errors import Conflict, DeadlineExceeded, Overloaded, Unavailable
from core.limits import Limits
from core.messages import Message, Published, new_message
from core.remote.lanes import Lanes


class Wire:
    """Takes requests, and answers when it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str | None, str, list[str]]] = []
        self.error: Exception | None = None
        self.offset = 0
        self.gate = asyncio.Event()
        self.lanes = Lanes(self.publish, Limits(batch_messages=10), max_bytes=20_000)

    async def publish(
        self, authorization: str | None, topic: str, messages: Sequence[Message], deadline: float
    ) -> tuple[Published, ...]:
        ids = [message.id for message in messages]
        self.requests.append((authorization, topic, ids))
        await self.gate.wait()
        if "bad" in ids:
            raise Conflict("was published before", field=f"messages[{ids.index('bad')}].id" if len(ids) > 1 else "id")
        if self.error is not None:
            raise self.error
        first = self.offset + 1
        self.offset += len(ids)
        return tuple(Published(topic, first + index, id_, False) for index, id_ in enumerate(ids))

    def add(
        self, *ids: str, topic: str = "t", authorization: str | None = None, seconds: float = 30.0, size: int = 1
    ) -> asyncio.Future[tuple[Published, ...]]:
        messages = [new_message(b"x", id=id_) for id_ in ids]
        return self.lanes.add(authorization, topic, messages, size, asyncio.get_running_loop().time() + seconds)


async def test_what_waits_travels_together_and_in_order() -> None:
    """One request at a time; each call gets the offsets of its own messages."""
    wire = Wire()
    answers = [wire.add("a")]
    await asyncio.sleep(0)
    answers += [wire.add("b", "c"), wire.add("d")]
    wire.gate.set()
    published = [await answer for answer in answers]
    assert wire.requests == [(None, "t", ["a"]), (None, "t", ["b", "c", "d"])]
    assert [[(one.id, one.offset) for one in answer] for answer in published] == [
        [("a", 1)],
        [("b", 2), ("c", 3)],
        [("d", 4)],
    ]
    assert wire.lanes.bytes == 0


async def test_a_call_whose_time_is_over_is_told_so_before_its_timer_has_a_turn() -> None:
    """It is not sent any more."""
    wire = Wire()
    with pytest.raises(DeadlineExceeded):
        await wire.add("late", seconds=0)
    assert wire.requests == []


async def test_a_request_holds_no_more_than_a_batch() -> None:
    """Calls are not cut; what does not fit goes next."""
    wire = Wire()
    wire.gate.set()
    answers = [wire.add(*(f"{call}-{number}" for number in range(4))) for call in range(5)]
    for answer in answers:
        await answer
    assert [len(ids) for _, _, ids in wire.requests] == [8, 8, 4]


async def test_a_bad_message_fails_its_own_call_only() -> None:
    """Its companions are published without it, and it hears of its own fields."""
    wire = Wire()
    first = wire.add("a")
    await asyncio.sleep(0)
    companions = [wire.add("b"), wire.add("bad"), wire.add("c")]
    wire.gate.set()
    await first
    assert (await companions[0])[0].id == "b"
    with pytest.raises(Conflict, match=r"^id: "):
        await companions[1]
    assert (await companions[2])[0].offset == 3


async def test_topics_and_credentials_do_not_wait_for_each_other() -> None:
    """Nor do they share requests."""
    wire = Wire()
    answers = [wire.add("a"), wire.add("b", topic="u"), wire.add("c", authorization="Bearer x")]
    await asyncio.sleep(0)
    assert wire.requests == [(None, "t", ["a"]), (None, "u", ["b"]), ("Bearer x", "t", ["c"])]
    wire.gate.set()
    await asyncio.gather(*answers)


async def test_every_call_hears_of_a_failure() -> None:
    """Each with an error of its own, and when to repeat."""
    wire = Wire()
    wire.error = Unavailable("the core can't be reached", retry_after=2.0)
    wire.gate.set()
    errors = []
    for answer in [wire.add("a"), wire.add("b")]:
        with pytest.raises(Unavailable) as caught:
            await answer
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert [error.retry_after for error in errors] == [2.0, 2.0]


async def test_a_call_waits_no_longer_than_its_deadline() -> None:
    """Behind a request that hangs too; what is late is not sent any more."""
    wire = Wire()
    first = wire.add("a")
    await asyncio.sleep(0)
    late, patient = wire.add("late", seconds=0.01), wire.add("patient")
    with pytest.raises(DeadlineExceeded):
        await late
    wire.gate.set()
    await asyncio.gather(first, patient)
    assert [ids for _, _, ids in wire.requests] == [["a"], ["patient"]]


async def test_who_goes_away_has_published_all_the_same() -> None:
    """A cancelled call was begun, and keeps its place."""
    wire = Wire()
    first = wire.add("a")
    await asyncio.sleep(0)
    gone, last = wire.add("gone"), wire.add("b")
    gone.cancel()
    wire.gate.set()
    await asyncio.gather(first, last)
    assert [ids for _, _, ids in wire.requests] == [["a"], ["gone", "b"]]


async def test_what_waits_is_bounded() -> None:
    """Past the bound a call is refused at once; room comes back with the answers."""
    wire = Wire()
    taken = [wire.add("a", size=12_000), wire.add("b", size=7_000)]
    with pytest.raises(Overloaded):
        wire.add("c", size=1)
    wire.gate.set()
    await asyncio.gather(*taken)
    await wire.add("c", size=19_000)
    assert wire.lanes.bytes == 0
