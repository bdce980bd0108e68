"""API keys, in memory and in their file."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import Conflict, InvalidArgument, NotFound, Unauthenticated
from core.keys import KeyRing
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
