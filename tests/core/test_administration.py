"""The administration of keys, and who may."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from core import keys as core_keys
from core.administration import KeyAdministration, KeyService, all_keys
from core.errors import Conflict, InvalidArgument, Overloaded, PermissionDenied, Unauthenticated
from core.gate import OpenGate, PolicyGate
from core.keys import ApiKey, KeyRing
from core.policy import Entry, Policy
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.keys import SqliteKeys
from tests.core.opening import until
from tests.core.test_gate import Shown

POLICY = Policy({"boss": Entry(admin=("#",)), "shop": Entry(read=("#",), admin=("orders.#",))})
CALLS: list[Callable[[KeyService], Awaitable[object]]] = [
    lambda keys: keys.create_key("nobody", -1),
    lambda keys: keys.list_keys(after="nothing", limit=0),
    lambda keys: keys.revoke_key("nothing"),
]


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(SqliteKeys(MEMORY), principals=POLICY.principals)


@pytest.fixture
def gate(service: LocalService, ring: KeyRing, settings: Settings) -> PolicyGate:
    return PolicyGate(service, POLICY, ring, None, settings)


@pytest.mark.parametrize("call", CALLS)
async def test_rights_come_first(
    call: Callable[[KeyService], Awaitable[object]], gate: PolicyGate, ring: KeyRing
) -> None:
    """Whoever may not administer everything learns nothing about what is there."""
    session = await gate.admit(Shown((await ring.create("shop"))[1]))
    with pytest.raises(PermissionDenied, match="'shop' has no grant to admin"):
        await call(session.keys)
    boss, text = await ring.create("boss")
    session = await gate.admit(Shown(text))
    await ring.revoke(boss.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await call(session.keys)


async def test_administration_counts_as_requests(service: LocalService, ring: KeyRing, settings: Settings) -> None:
    """Within the rates of the principal."""
    gate = PolicyGate(service, POLICY, ring, None, msgspec.structs.replace(settings, principal_requests=0.001))
    session = await gate.admit(Shown((await ring.create("boss"))[1]))
    await session.keys.list_keys()
    with pytest.raises(Overloaded):
        await session.keys.list_keys()


async def test_without_authentication_nobody_administers(service: LocalService, settings: Settings) -> None:
    """There is nobody who could be asked for rights."""
    session = await OpenGate(service, settings).admit(Shown())
    with pytest.raises(PermissionDenied, match="nobody administers"):
        _ = session.keys


async def test_keys_are_for_principals_of_the_policy(gate: PolicyGate, ring: KeyRing) -> None:
    """Of the one that counts now; keys of others go on, without rights."""
    keys = KeyAdministration(ring)
    with pytest.raises(InvalidArgument, match=r"principal: 'new' is no principal of the policy, which has boss, shop$"):
        await keys.create_key("new")
    made = await keys.create_key("shop")
    gate.reload(Policy({f"p{number:02}": Entry() for number in range(99)}))
    await keys.create_key("p98")
    with pytest.raises(InvalidArgument, match=r"p00, .*, p19, \.\.\.$"):
        await keys.create_key("shop")
    session = await gate.admit(Shown(made.key))
    with pytest.raises(PermissionDenied):
        await session.keys.list_keys()


async def test_pages_are_whole_while_keys_are_made(ring: KeyRing) -> None:
    """No key is left out and none comes twice, and a new one is last."""
    keys = KeyAdministration(ring)
    for number in range(10):
        ring.principals = None
        await keys.create_key(f"p{number}")
    first = await keys.list_keys(limit=4)
    await keys.create_key("late")
    rest = [key async for key in all_keys(keys)][4:]
    assert first.next == first.keys[-1].id
    assert (await keys.list_keys(after=first.next)).keys == tuple(rest)
    assert {key.principal for key in (*first.keys, *rest)} == {"late", *(f"p{number}" for number in range(10))}
    assert (await keys.list_keys(limit=11)).next is None


async def test_what_is_told_holds_no_digest(ring: KeyRing) -> None:
    """And what is logged by mistake no key."""
    made = await KeyAdministration(ring).create_key("shop")
    assert set(made.info.__struct_fields__) == set(ApiKey.__struct_fields__) - {"digest"}
    assert made.key not in repr(made)
    assert made.key not in f"{[made]}"


async def test_uses_are_written_down_now_and_then(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at the end; the first use is one already, and a store that fails costs nothing else."""
    written: list[dict[str, object]] = []
    failing = False

    async def save(self: SqliteKeys, times: dict[str, object]) -> None:
        written.append(times)
        if failing:
            raise Conflict("the disk is full")

    monkeypatch.setattr(SqliteKeys, "save_last_used", save)
    monkeypatch.setattr(core_keys, "_FLUSH_SECONDS", 0.001)
    key, _ = await ring.create("shop")
    async with ring:
        ring.last_used[key.id] = 1.0
        async with asyncio.timeout(30):
            await until(lambda: len(written) == 1)
            failing = True
            ring.last_used[key.id] = 2.0
            await until(lambda: len(written) == 2)
            ring.last_used[key.id] = 3.0
            await until(lambda: len(written) == 3)
        monkeypatch.setattr(core_keys, "_FLUSH_SECONDS", 60.0)
        ring.last_used[key.id] = 4.0
    assert [[when.timestamp() for when in times.values()] for times in written][-1] == [4.0]  # type: ignore[attr-defined]


async def test_the_first_use_of_a_key_counts(gate: PolicyGate, ring: KeyRing) -> None:
    """Not only those that follow."""
    key, text = await ring.create("shop")
    await gate.admit(Shown(text))
    assert key.id in ring.last_used


@pytest.mark.parametrize("size", [10, 10_000])
async def test_a_lookup_does_not_look_at_other_keys(size: int, gate: PolicyGate, ring: KeyRing) -> None:
    """One is found by its id, and none is gone through; the next request with it finds its session by its digest."""
    key, text = await ring.create("shop")
    stranger = (await KeyRing(SqliteKeys(MEMORY)).create("shop"))[1]
    others = {str(number): msgspec.structs.replace(key, id=str(number)) for number in range(size - 1)}
    ring._keys = counted = Counted({**others, key.id: key})
    session = await gate.admit(Shown(text))
    assert counted.gets == 1
    with pytest.raises(Unauthenticated, match="unknown"):
        await gate.admit(Shown(stranger))
    assert counted.gets == 2
    assert await gate.admit(Shown(text)) is session
    assert counted.gets == 2
    assert len(counted) == size


class Counted(dict[str, ApiKey]):
    """Counts look-ups, and can't be gone through."""

    gets = 0

    def get(self, key: str, default: object = None) -> ApiKey | None:  # type: ignore[override]
        self.gets += 1
        return super().get(key)

    def __iter__(self) -> object:  # type: ignore[override]
        raise AssertionError("looked at all keys")

    items = values = keys = __iter__  # type: ignore[assignment]
