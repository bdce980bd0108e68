"""Sessions: who is let in, what they may do, and when it ends."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from core.errors import InvalidArgument, Overloaded, PermissionDenied, Unauthenticated
from core.gate import OpenGate, PolicyGate, Session
from core.keys import KeyRing
from core.messages import new_message
from core.policy import Entry, Grants, Identity, Policy
from core.service import LocalService
from core.settings import MEMORY, Settings
from core.stores.keys import SqliteKeys

POLICY = Policy(
    principals={
        "shop": Entry(publish=("orders.*",), read=("orders.#",), certificates=("CN=shop",), rabbitmq_users=("till",)),
        "reader": Entry(read=("#",)),
    },
    scopes={"orders:read": Grants(read=("orders.#",))},
)


class Shown(msgspec.Struct, frozen=True):
    """Credentials as a test shows them."""

    token: str | None = None
    certificate: tuple[str, ...] = ()
    address: str = "192.0.2.1"


class Issuer:
    """Knows the one token `good`, which ends at `expires`."""

    def __init__(self) -> None:
        self.expires = 2e9
        self.asked = 0
        self.listeners: list[Callable[[str], None]] = []

    def on_withdrawn(self, listener: Callable[[str], None]) -> None:
        self.listeners.append(listener)

    async def verify(self, token: str) -> Identity:
        self.asked += 1
        if token != "good":
            raise Unauthenticated("is no token of ours", field="credential")
        return Identity(name="sub", anchor="kid:1", scopes=("orders:read",), expires=self.expires)


class Time:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Three guesses a minute, so that none is forgotten before the next, however slow the machine."""
    return msgspec.structs.replace(settings, auth_failures=3)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def keys(time: Time) -> KeyRing:
    return KeyRing(SqliteKeys(MEMORY), time)


@pytest.fixture
def gate(service: LocalService, keys: KeyRing, issuer: Issuer, settings: Settings, time: Time) -> PolicyGate:
    return PolicyGate(service, POLICY, keys, issuer, settings, now=time)


async def published(session: Session, topic: str) -> Any:
    return await session.service.publish(topic, [new_message(b"x")])


async def test_a_key_opens_a_session_with_the_rights_of_its_principal(gate: PolicyGate, keys: KeyRing) -> None:
    """The policy says what its principal may do; the session is the same for every request."""
    _, key = await keys.create("shop")
    session = await gate.admit(Shown(key))
    assert session.principal.name == "shop"
    await published(session, "orders.new")
    assert (await session.service.get_message("orders.new", 1)).offset == 1
    with pytest.raises(PermissionDenied):
        await published(session, "stock")
    with pytest.raises(PermissionDenied):
        await session.service.get_data()
    assert await gate.admit(Shown(key, address="198.51.100.7")) is session


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (Shown(), "is needed"),
        (Shown("trv_nonsense"), "no API key"),
        (Shown("bad"), "no token of ours"),
        (Shown(certificate=("CN=stranger",)), "no principal for the certificate"),
    ],
)
async def test_everybody_else_is_refused(gate: PolicyGate, shown: Shown, reason: str) -> None:
    """With the reason, and never with what was shown."""
    with pytest.raises(Unauthenticated, match=reason):
        await gate.admit(shown)


async def test_a_certificate_and_a_user_of_rabbitmq_stand_for_principals(gate: PolicyGate) -> None:
    """Others vouch for them; the policy says who they are."""
    assert (await gate.admit(Shown(certificate=("CN=shop", "shop.example")))).principal.name == "shop"
    assert gate.vouched("till").principal.name == "shop"
    with pytest.raises(Unauthenticated, match="user_id: user 'guest'"):
        gate.vouched("guest")
    with pytest.raises(Unauthenticated, match="amqp_principal is not set"):
        gate.vouched(None)


async def test_messages_without_a_user_have_the_principal_of_the_settings(
    service: LocalService, keys: KeyRing, settings: Settings
) -> None:
    """Producers that set no `user_id` share one."""
    named = msgspec.structs.replace(settings, amqp_principal="shop")
    assert PolicyGate(service, POLICY, keys, None, named).vouched(None).principal.name == "shop"


async def test_a_token_is_verified_once_and_ends_with_its_time(gate: PolicyGate, issuer: Issuer, time: Time) -> None:
    """Its digest is remembered; past its time it is verified anew."""
    session = await gate.admit(Shown("good"))
    assert await gate.admit(Shown("good")) is session
    assert issuer.asked == 1
    time.now = issuer.expires
    with pytest.raises(Unauthenticated, match="expired"):
        await session.service.get_message("orders.new", 1)
    await gate.admit(Shown("good"))
    assert issuer.asked == 2


async def test_a_withdrawn_signing_key_ends_what_rests_on_it(gate: PolicyGate, issuer: Issuer) -> None:
    """And nothing else."""
    session = await gate.admit(Shown("good"))
    for tell in issuer.listeners:
        tell("kid:2")
    session.check()
    for tell in issuer.listeners:
        tell("kid:1")
    with pytest.raises(Unauthenticated, match="withdrawn"):
        session.check()


async def test_a_revoked_key_ends_everything_that_it_opened(gate: PolicyGate, keys: KeyRing) -> None:
    """Requests, and streams that wait for nothing in particular."""
    record, key = await keys.create("shop")
    session = await gate.admit(Shown(key))
    async with aclosing(session.service.follow("orders.new")) as pages:
        await anext(pages)

        async def follow() -> None:
            async with session.lifetime():
                await anext(pages)

        async with asyncio.TaskGroup() as group:
            following = group.create_task(_error_of(follow()))
            await asyncio.sleep(0)
            await keys.revoke(record.id)
        assert "revoked" in str(following.result())
    with pytest.raises(Unauthenticated, match="revoked"):
        await published(session, "orders.new")
    with pytest.raises(Unauthenticated, match="revoked"):
        await gate.admit(Shown(key))


async def _error_of(work: Any) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as found:
        await work
    return found.value


async def test_what_ends_already_is_no_hindrance(gate: PolicyGate) -> None:
    """A policy is changed again, or a key withdrawn, while a stream that was cut off is still on its way out."""
    session = await gate.admit(Shown(certificate=("CN=shop",)))
    cut, gone = asyncio.Event(), asyncio.Event()

    async def stream() -> None:
        async with session.lifetime():
            try:
                await asyncio.Event().wait()
            finally:
                cut.set()
                await gone.wait()

    async with asyncio.TaskGroup() as group:
        streaming = group.create_task(_error_of(stream()))
        await asyncio.sleep(0)
        gate.reload(POLICY)
        await cut.wait()
        gate.reload(POLICY)
        gone.set()
    assert "policy was changed" in str(streaming.result())


async def test_a_lifetime_leaves_other_timeouts_alone(gate: PolicyGate) -> None:
    """Only the end of the session is told as such."""
    session = await gate.admit(Shown("good"))
    with pytest.raises(TimeoutError):
        async with session.lifetime():
            raise TimeoutError


async def test_another_policy_counts_at_once(gate: PolicyGate, keys: KeyRing) -> None:
    """For sessions that are open as well."""
    _, key = await keys.create("reader")
    session = await gate.admit(Shown(key))
    user = gate.vouched("till")
    await session.service.read_messages("stock")
    gate.reload(Policy(principals={"reader": Entry(read=("orders.#",))}))
    assert await gate.admit(Shown(key)) is session
    with pytest.raises(PermissionDenied):
        await session.service.read_messages("stock")
    with pytest.raises(Unauthenticated):
        await published(user, "orders.new")
    with pytest.raises(Unauthenticated, match="no principal"):
        gate.vouched("till")


async def test_who_guesses_is_put_off_and_who_is_known_is_not(
    gate: PolicyGate, keys: KeyRing, settings: Settings
) -> None:
    """Past the bound an address learns nothing about further credentials, right ones included, until it waited."""
    _, good = await keys.create("shop")
    _, other = await keys.create("reader")
    await gate.admit(Shown(good))
    for _ in range(settings.auth_failures):
        with pytest.raises(Unauthenticated):
            await gate.admit(Shown("guess"))
    for shown in (Shown("guess"), Shown(other)):
        with pytest.raises(Overloaded) as refused:
            await gate.admit(shown)
        assert refused.value.retry_after is not None
        assert 0 < refused.value.retry_after <= 60 / settings.auth_failures
    await gate.admit(Shown(good))
    await gate.admit(Shown(other, address="198.51.100.7"))


async def test_one_network_of_ipv6_is_one_place(gate: PolicyGate, settings: Settings) -> None:
    """Who has 2**64 addresses is not 2**64 callers; IPv4 within IPv6 is IPv4."""
    for number in range(settings.auth_failures):
        with pytest.raises(Unauthenticated):
            await gate.admit(Shown("guess", address=f"2001:db8::{number:x}"))
    with pytest.raises(Overloaded):
        await gate.admit(Shown("guess", address="2001:db8::ffff"))
    for address in ("2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1", "unix"):
        with pytest.raises(Unauthenticated):
            await gate.admit(Shown("guess", address=address))


async def test_an_open_gate_lets_everybody_use_messages_and_nobody_administer(
    service: LocalService, settings: Settings
) -> None:
    """It costs nothing where no rates are set: the service is the service."""
    session = await OpenGate(service, settings).admit(Shown())
    assert session.service is service
    with pytest.raises(PermissionDenied):
        session.principal.allow("create_key")


async def test_rates_hold_per_address_where_nobody_is_known(service: LocalService, settings: Settings) -> None:
    """Past them a caller is told when to come back, and others notice nothing."""
    gate = OpenGate(service, msgspec.structs.replace(settings, principal_requests=0.001))
    session = await gate.admit(Shown())
    await session.service.get_data()
    with pytest.raises(Overloaded) as refused:
        await published(session, "t")
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 1000
    await (await gate.admit(Shown(address="198.51.100.7"))).service.get_data()
    await gate.vouched(None).service.get_data()


async def test_streams_are_bounded_per_caller(service: LocalService, settings: Settings) -> None:
    """A place is free again when a stream was closed."""
    session = await OpenGate(service, msgspec.structs.replace(settings, principal_streams=1)).admit(Shown())
    async with aclosing(session.service.follow("t")) as first:
        await anext(first)
        async with aclosing(session.service.follow("t")) as second:
            with pytest.raises(Overloaded, match="1 streams of this caller"):
                await anext(second)
    assert session.allowance.streams == 0


async def test_bad_topics_are_judged_before_rights(gate: PolicyGate, keys: KeyRing) -> None:
    """A name that no topic can have is bad input, not a lack of rights."""
    _, key = await keys.create("shop")
    with pytest.raises(InvalidArgument, match="topic"):
        await (await gate.admit(Shown(key))).service.get_message("no/topic", 1)


async def test_a_listing_has_the_topics_that_one_may_read(
    gate: PolicyGate, keys: KeyRing, service: LocalService
) -> None:
    """Pages of them are whole, whatever lies between."""
    for number in range(30):
        await service.publish(f"orders.{number:02}" if number % 10 == 0 else f"other.{number}", [new_message(b"x")])
    _, key = await keys.create("shop")
    mine = (await gate.admit(Shown(key))).service
    first = await mine.list_topics(limit=2)
    assert ([one.topic for one in first.topics], first.next) == (["orders.00", "orders.10"], "orders.10")
    second = await mine.list_topics(after="orders.10", limit=2)
    assert ([one.topic for one in second.topics], second.next) == (["orders.20"], None)


async def test_a_listing_ends_with_its_session(
    gate: PolicyGate, keys: KeyRing, service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may look through very many topics, and the key may be revoked meanwhile."""
    await service.publish("orders.a", [new_message(b"x")])
    record, key = await keys.create("shop")
    mine = (await gate.admit(Shown(key))).service
    looked = service.list_topics

    async def look(**arguments: Any) -> Any:
        await keys.revoke(record.id)
        return await looked(**arguments)

    monkeypatch.setattr(service, "list_topics", look)
    with pytest.raises(Unauthenticated, match="revoked"):
        await mine.list_topics()
