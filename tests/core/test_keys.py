"""API keys, in memory and in their file."""

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import Conflict, InvalidArgument, NotFound, Unauthenticated, Unavailable
from core.keys import ApiKey, KeyRing
from core.settings import MEMORY
from core.stores.keys import SqliteKeys

NOW = 1_800_000_000.0


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def ring(tmp_path: Path, time: Time) -> KeyRing:
    ring = KeyRing(SqliteKeys(str(tmp_path)), time)
    await ring.open()
    return ring


async def test_a_key_proves_its_principal(ring: KeyRing) -> None:
    """The text is told once; what is kept is enough to know it again."""
    key, text = await ring.create("shop")
    assert text.startswith(f"trv_{key.id}_")
    identity = ring.identify(text)
    assert (identity.name, identity.anchor, identity.expires) == ("shop", f"key:{key.id}", None)


async def test_keys_survive_a_restart_without_their_text(ring: KeyRing, tmp_path: Path, time: Time) -> None:
    """The file has digests, and is for its owner alone."""
    _, text = await ring.create("shop", days=1)
    file = tmp_path / "keys.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text.encode() not in file.read_bytes()
    assert text[17:].encode() not in file.read_bytes()
    again = KeyRing(SqliteKeys(str(tmp_path)), time)
    await again.open()
    assert again.identify(text) == ring.identify(text)


async def test_no_file_before_the_first_key(ring: KeyRing, tmp_path: Path) -> None:
    """Who uses no keys has none to care for."""
    assert ring.list() == []
    assert not (tmp_path / "keys.db").exists()


async def test_every_other_text_is_refused(ring: KeyRing) -> None:
    """A changed, cut or invented key is unknown, and mistyping is told from guessing."""
    _, text = await ring.create("shop")
    for at in range(len(text)):
        wrong = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
        with pytest.raises(Unauthenticated):
            ring.identify(wrong)
    for wrong in ("", "trv_", text[:-1], text + "a", text.upper()):
        with pytest.raises(Unauthenticated, match="is no API key"):
            ring.identify(wrong)
    other = KeyRing(SqliteKeys(MEMORY))
    _, foreign = await other.create("shop")
    with pytest.raises(Unauthenticated, match="unknown"):
        ring.identify(foreign)


async def test_a_key_expires(ring: KeyRing, time: Time) -> None:
    """At its time, neither before nor after."""
    key, text = await ring.create("shop", days=2)
    assert key.expires == datetime.fromtimestamp(NOW, UTC) + timedelta(days=2)
    time.now += 2 * 86_400 - 1
    ring.identify(text)
    time.now += 1
    with pytest.raises(Unauthenticated, match="expired"):
        ring.identify(text)


async def test_a_revoked_key_is_refused_and_told_to_who_listens(ring: KeyRing, tmp_path: Path, time: Time) -> None:
    """For good, and more than once without harm."""
    key, text = await ring.create("shop")
    told: list[str] = []
    ring.on_revoked(told.append)
    assert (await ring.revoke(key.id)).revoked
    await ring.revoke(key.id)
    assert told == [f"key:{key.id}"]
    again = KeyRing(SqliteKeys(str(tmp_path)), time)
    await again.open()
    for one in (ring, again):
        with pytest.raises(Unauthenticated, match="revoked"):
            one.identify(text)
    with pytest.raises(NotFound):
        await ring.revoke("nobody")


async def test_a_revocation_that_was_not_written_down_can_be_repeated(tmp_path: Path) -> None:
    """It holds at once, but would not outlive the process."""

    class FullDisk(SqliteKeys):
        async def save(self, key: ApiKey) -> None:
            if full:
                raise Unavailable("the disk is full")
            await super().save(key)

    full = False
    ring = KeyRing(FullDisk(str(tmp_path)))
    record, key = await ring.create("shop")
    full = True
    with pytest.raises(Unavailable):
        await ring.revoke(record.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        ring.identify(key)
    full = False
    await ring.revoke(record.id)
    again = KeyRing(SqliteKeys(str(tmp_path)))
    await again.open()
    with pytest.raises(Unauthenticated, match="revoked"):
        again.identify(key)


class HeldUp(SqliteKeys):
    """Writes nothing before `go` is set, as if something else were being written."""

    def __init__(self, data_dir: str) -> None:
        super().__init__(data_dir)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def save(self, key: ApiKey) -> None:
        self.asked.set()
        await self.go.wait()
        await super().save(key)


async def cancelled(task: asyncio.Task[Any], store: HeldUp) -> None:
    """Cancel whoever waits for the store, and let it write afterwards."""
    await store.asked.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    store.go.set()


async def test_a_revocation_is_written_down_though_its_caller_leaves(ring: KeyRing, tmp_path: Path) -> None:
    """It was told to everybody, so it must not end with the process."""
    record, key = await ring.create("shop")
    store = HeldUp(str(tmp_path))
    async with KeyRing(store) as left:
        await cancelled(asyncio.create_task(left.revoke(record.id)), store)
    again = KeyRing(SqliteKeys(str(tmp_path)))
    await again.open()
    with pytest.raises(Unauthenticated, match="revoked"):
        again.identify(key)


async def test_a_key_whose_maker_leaves_is_listed(tmp_path: Path) -> None:
    """It is written down, so it can be revoked: here and after a restart there are the same keys."""
    store = HeldUp(str(tmp_path))
    async with KeyRing(store) as left:
        await cancelled(asyncio.create_task(left.create("shop")), store)
        (listed,) = left.list()
    again = KeyRing(SqliteKeys(str(tmp_path)))
    await again.open()
    assert [key.id for key in again.list()] == [listed.id]
    await again.revoke(listed.id)


async def test_a_key_that_was_not_written_down_is_none(tmp_path: Path) -> None:
    """Also if its maker has left by then."""

    class FullDisk(HeldUp):
        async def save(self, key: ApiKey) -> None:
            self.asked.set()
            await self.go.wait()
            raise Unavailable("the disk is full")

    store = FullDisk(str(tmp_path))
    async with KeyRing(store) as left:
        await cancelled(asyncio.create_task(left.create("shop")), store)
        with pytest.raises(Unavailable):
            await left.create("shop")
    assert left.list() == []


async def test_a_principal_has_two_live_keys_to_rotate(ring: KeyRing, time: Time) -> None:
    """A third waits until one was revoked or has expired."""
    first, _ = await ring.create("shop")
    await ring.create("shop", days=1)
    with pytest.raises(Conflict, match=first.id):
        await ring.create("shop")
    await ring.create("other")
    await ring.revoke(first.id)
    await ring.create("shop")
    time.now += 86_400
    await ring.create("shop")


@pytest.mark.parametrize("days", [0, -1, 1e9, float("nan")])
async def test_the_days_of_a_key_are_judged(ring: KeyRing, days: float) -> None:
    """Bad input has no effect."""
    with pytest.raises(InvalidArgument, match="days"):
        await ring.create("shop", days=days)
    assert ring.list() == []


async def test_the_last_use_is_listed_and_written_down(ring: KeyRing, tmp_path: Path, time: Time) -> None:
    """In memory at once, in the file with the flush."""
    key, _ = await ring.create("shop")
    ring.last_used[key.id] = NOW + 5
    used = datetime.fromtimestamp(NOW + 5, UTC)
    assert [one.last_used for one in ring.list()] == [used]
    await ring.flush()
    again = KeyRing(SqliteKeys(str(tmp_path)), time)
    await again.open()
    assert [one.last_used for one in again.list()] == [one.last_used for one in ring.list()] == [used]
