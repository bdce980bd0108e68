"""Who may do what at an edge: what the core says of each caller's own credential."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import grpc.aio
import httpx2
import msgspec
import pytest

from container import Container
from core.errors import Overloaded, PermissionDenied, Unauthenticated, Unavailable
from core.keys import KeyRing
from core.messages import Greeting, new_message
from core.policy import read_policy
from core.settings import Settings
from main import running
from proto.trivium.v1 import keys_pb2
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.keys_pb2_grpc import KeysStub
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.pki import Pki
from tests.remote.conftest import PROTOCOLS, AnEdge, Core, start_core, start_edge, until
from transports.grpc.errors import error_of

POLICY = """
[principals.shop]
publish = ["orders"]
read = ["orders"]
admin = ["#"]
[principals.reader]
read = ["orders"]
certificates = ["CN=edge"]
[principals.poor]
"""
OK, STALE = "ok", "stale"


class Shown(msgspec.Struct, frozen=True):
    """Credentials as a test shows them."""

    token: str | None = None
    certificate: tuple[str, ...] = ()
    address: str = "192.0.2.1"


class Caller(Protocol):
    """Somebody at a door of an edge. What became of a call is a code, `OK` or `STALE`."""

    async def publish(self, key: str | None, topic: str = "orders") -> str: ...

    async def read(self, key: str | None, topic: str = "orders") -> str: ...

    async def follow(self, key: str, began: asyncio.Event) -> str:
        """Follow until the end; how that came."""

    async def list_keys(self, key: str) -> tuple[str, str]:
        """The code, and what it says."""


class RestCaller:
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def publish(self, key: str | None, topic: str = "orders") -> str:
        path = f"/api/topics/{topic}/messages"
        return _code(await self._http.post(path, content=b"x", headers=_header(key)))

    async def read(self, key: str | None, topic: str = "orders") -> str:
        return _code(await self._http.get(f"/api/data?topic={topic}", headers=_header(key)))

    async def follow(self, key: str, began: asyncio.Event) -> str:
        path = "/api/topics/orders/stream?after=0"
        async with self._http.stream("GET", path, headers=_header(key)) as answer:
            async for _ in answer.aiter_raw():
                began.set()
        return await self.read(key)

    async def list_keys(self, key: str) -> tuple[str, str]:
        answer = await self._http.get("/api/keys", headers=_header(key))
        return _code(answer), str(answer.json().get("detail"))


class GrpcCaller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._messages: Any = MessagesStub(channel)
        self._keys: Any = KeysStub(channel)

    async def publish(self, key: str | None, topic: str = "orders") -> str:
        request = pb.PublishRequest(topic=topic, messages=[pb.Message(data=b"x")])
        return (await self._ask(self._messages.Publish, request, key))[0]

    async def read(self, key: str | None, topic: str = "orders") -> str:
        return (await self._ask(self._messages.GetData, pb.GetDataRequest(topic=topic), key))[0]

    async def follow(self, key: str, began: asyncio.Event) -> str:
        call = self._messages.Follow(pb.FollowRequest(topic="orders", after=0), metadata=_metadata(key))
        try:
            async for _ in call:
                began.set()
        except grpc.aio.AioRpcError as error:
            return _of(error)[0]
        return OK

    async def list_keys(self, key: str) -> tuple[str, str]:
        return await self._ask(self._keys.ListKeys, keys_pb2.ListKeysRequest(), key)

    async def _ask(self, rpc: Any, request: Any, key: str | None) -> tuple[str, str]:
        try:
            answer = await rpc(request, metadata=_metadata(key))
        except grpc.aio.AioRpcError as error:
            return _of(error)
        return (STALE if isinstance(answer, pb.GetDataResponse) and answer.HasField("stale") else OK), ""


def _header(key: str | None) -> dict[str, str]:
    return {} if key is None else {"x-api-key": key}


def _metadata(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else (("authorization", f"Bearer {key}"),)


def _code(answer: httpx2.Response) -> str:
    if answer.status_code >= 400:
        return str(answer.json()["code"])
    return STALE if "warning" in answer.headers else OK


def _of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    told: Any = error_of(error)
    return told.code, told.detail


@pytest.fixture
async def guarded(stack: AsyncExitStack, tmp_path: Path) -> Core:
    """A core that asks who comes."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    return await start_core(stack, auth="required", policy=str(policy), auth_failures=1000)


@pytest.fixture(params=PROTOCOLS)
def link(request: pytest.FixtureRequest) -> str:
    """How the edge reaches its core."""
    return str(request.param)


@pytest.fixture
async def edge(stack: AsyncExitStack, guarded: Core, link: str) -> AnEdge:
    """An edge that asks who comes, too."""
    return await start_edge(stack, guarded.address(link), auth="required")


@pytest.fixture(params=PROTOCOLS)
async def caller(request: pytest.FixtureRequest, stack: AsyncExitStack, edge: AnEdge) -> Caller:
    """Somebody at each door in turn."""
    return await at_door(request.param, edge, stack)


async def at_door(door: str, edge: AnEdge, stack: AsyncExitStack) -> Caller:
    address = edge.doors[door].address
    if door == "rest":
        return RestCaller(await stack.enter_async_context(httpx2.AsyncClient(base_url=address, timeout=30)))
    return GrpcCaller(await stack.enter_async_context(grpc.aio.insecure_channel(address)))


async def key_of(keys: KeyRing, principal: str) -> str:
    return (await keys.create(principal))[1]


async def test_the_core_judges_each_caller(guarded: Core, edge: AnEdge, caller: Caller) -> None:
    """Right keys do what their grants allow; wrong ones, and what is none, are unauthenticated and harm no link."""
    shop, reader, poor = [await key_of(guarded.keys, name) for name in ("shop", "reader", "poor")]
    assert await caller.publish(shop) == OK
    assert await caller.read(shop) == OK
    assert await caller.read(reader) == OK
    assert await caller.publish(reader) == "permission_denied"
    assert await caller.read(reader, "stock") == "permission_denied"
    assert await caller.read(poor) == "permission_denied"
    tampered = shop[:-1] + ("0" if shop[-1] != "0" else "1")
    for wrong in (tampered, "nonsense", "with space", "", "x" * 10_000, None):
        assert await caller.read(wrong) == "unauthenticated"
        assert await caller.publish(wrong) == "unauthenticated"
    assert edge.health.checks["core"].detail == "1 of 1 addresses answer"
    assert (await guarded.service.read_messages("orders")).next == 1


async def test_a_revoked_key_ends_what_it_opened(guarded: Core, edge: AnEdge, caller: Caller, link: str) -> None:
    """Its stream too; and what it was told before is not repeated to it once the core is away."""
    info, key = await guarded.keys.create("shop")
    other = await key_of(guarded.keys, "reader")
    assert await caller.publish(key) == OK
    assert await caller.read(key) == await caller.read(other) == OK
    began = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        stream = group.create_task(caller.follow(key, began))
        await began.wait()
        await guarded.keys.revoke(info.id)
    assert stream.result() == "unauthenticated"
    assert await caller.read(key) == "unauthenticated"
    await guarded.proxy(link).close()
    await edge.notices("0 of 1")
    assert await caller.read(key) == "unavailable"
    assert await caller.read(other) == STALE


async def test_a_stale_answer_is_for_whom_it_was(guarded: Core, edge: AnEdge, caller: Caller, link: str) -> None:
    """Others get none, whether the core would let them read or not; without a credential nobody gets that far."""
    shop, reader, poor = [await key_of(guarded.keys, name) for name in ("shop", "reader", "poor")]
    assert await caller.publish(shop) == OK
    assert await caller.read(shop) == OK
    assert await caller.read(poor) == "permission_denied"
    await guarded.proxy(link).close()
    await edge.notices("0 of 1")
    assert await caller.read(shop) == STALE
    assert await caller.read(reader) == "unavailable"
    assert await caller.read(poor) == "unavailable"
    assert await caller.read("nonsense") == "unavailable"
    assert await caller.read(None) == "unauthenticated"


async def test_keys_are_administered_at_the_core(guarded: Core, caller: Caller) -> None:
    """Whoever asks an edge is told so."""
    code, detail = await caller.list_keys(await key_of(guarded.keys, "shop"))
    assert (code, "at the core" in detail) == ("permission_denied", True)


@pytest.mark.parametrize("door", PROTOCOLS)
async def test_callers_without_a_credential_may_act_as_the_edge(
    guarded: Core, stack: AsyncExitStack, link: str, door: str
) -> None:
    """With `--auth none` and a key of the edge's own; who shows a credential is judged by that one."""
    key = await key_of(guarded.keys, "reader")
    edge = await start_edge(stack, guarded.address(link), core_api_key=key)
    caller = await at_door(door, edge, stack)
    assert await caller.read(None) == OK
    assert await caller.publish(None) == "permission_denied"
    assert await caller.publish(await key_of(guarded.keys, "shop")) == OK
    assert await caller.read(await key_of(guarded.keys, "poor")) == "permission_denied"
    assert await caller.read("nonsense") == "unauthenticated"
    bare = await at_door(door, await start_edge(stack, guarded.address(link)), stack)
    assert await bare.read(None) == "unauthenticated"


async def test_one_denied_question_leaves_the_other_answers(guarded: Core, stack: AsyncExitStack, link: str) -> None:
    """Callers without a credential share theirs: what one of them may not ask is no reason to forget the rest."""
    edge = await start_edge(stack, guarded.address(link), core_api_key=await key_of(guarded.keys, "reader"))
    caller = await at_door("rest", edge, stack)
    assert await caller.read(None) == OK
    assert await caller.read(None, "stock") == "permission_denied"
    assert await caller.publish(None) == "permission_denied"
    await guarded.proxy(link).close()
    await edge.notices("0 of 1")
    assert await caller.read(None) == STALE
    assert await caller.read(None, "stock") == "unavailable"


async def test_an_answer_that_is_denied_by_now_is_not_repeated(
    guarded: Core, stack: AsyncExitStack, link: str, tmp_path: Path
) -> None:
    """A grant that was withdrawn counts for the edge once the core has said so."""
    edge = await start_edge(stack, guarded.address(link))
    service = (await edge.gate.admit(Shown(await key_of(guarded.keys, "reader")))).service
    await service.get_data("orders")
    (tmp_path / "policy.toml").write_text("[principals.reader]")
    guarded.reload(read_policy(tmp_path / "policy.toml"))
    with pytest.raises(PermissionDenied):
        await service.get_data("orders")
    await guarded.proxy(link).close()
    await edge.notices("0 of 1")
    with pytest.raises(Unavailable):
        await service.get_data("orders")


@pytest.mark.parametrize("door", PROTOCOLS)
async def test_an_edge_may_have_a_certificate(
    stack: AsyncExitStack, settings: Settings, pki: Pki, tmp_path: Path, link: str, door: str
) -> None:
    """Callers without a credential act as the principal of that; a caller's own token counts more."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    container = Container(
        settings=msgspec.structs.replace(
            pki.settings(settings, mutual=True), auth="required", policy=str(policy), amqp=False
        )
    )
    core = await stack.enter_async_context(running(container))
    certificate, key = pki.ours.client("edge").write(tmp_path, "edge")
    address = core.doors[link].address if link == "rest" else f"grpcs://{core.doors[link].address}"
    files = {"core_tls_ca": str(pki.ca), "core_tls_cert": str(certificate), "core_tls_key": str(key)}
    caller = await at_door(door, await start_edge(stack, address, **files), stack)
    assert await caller.read(None) == OK
    assert await caller.publish(None) == "permission_denied"
    assert await caller.publish(await key_of(container.keys(), "shop")) == OK


async def test_a_certificate_can_not_be_passed_on(core: Core, stack: AsyncExitStack) -> None:
    """With `--auth required` its bearer needs a token as well, and is told why."""
    edge = await start_edge(stack, core.addresses, auth="required")
    with pytest.raises(Unauthenticated, match="a client certificate can't be passed on"):
        await edge.gate.admit(Shown(certificate=("CN=shop",)))
    with pytest.raises(Unauthenticated, match=r"access token is needed$"):
        await edge.gate.admit(Shown())
    with pytest.raises(Unauthenticated, match="RabbitMQ"):
        edge.gate.vouched("guest")
    service = (await edge.gate.admit(Shown("anything", ("CN=shop",)))).service
    assert isinstance(await service.get_data("t"), Greeting)  # this core lets everybody in


async def test_who_guesses_is_put_off(stack: AsyncExitStack, guarded: Core, link: str) -> None:
    """By address, also with the same guess; a credential that was taken from there before goes on."""
    edge = await start_edge(stack, guarded.address(link), auth="required", auth_failures=3)
    good = Shown(await key_of(guarded.keys, "reader"))
    assert isinstance(await (await edge.gate.admit(good)).service.get_data("orders"), Greeting)
    for number in range(3):
        session = await edge.gate.admit(Shown(f"guess-{number % 2}"))
        with pytest.raises(Unauthenticated):
            await session.service.get_data("orders")
    for again in ("guess", "guess-0"):
        with pytest.raises(Overloaded, match="too many failed"):
            await edge.gate.admit(Shown(again))
    assert isinstance(await (await edge.gate.admit(good)).service.get_data("orders"), Greeting)
    await edge.gate.admit(Shown("guess", address="192.0.2.2"))


async def test_a_revoked_key_counts_as_one_failure(guarded: Core, edge: AnEdge) -> None:
    """However many reads it has on their way: its address is not put off."""
    info, key = await guarded.keys.create("reader")
    session = await edge.gate.admit(Shown(key))
    await session.service.get_data("orders")
    await guarded.keys.revoke(info.id)
    asked = (session.service.get_data("orders") for _ in range(40))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unauthenticated}
    other = await edge.gate.admit(Shown(await key_of(guarded.keys, "reader")))
    assert isinstance(await other.service.get_data("orders"), Greeting)


async def test_remembered_credentials_are_bounded_in_bytes(guarded: Core, edge: AnEdge) -> None:
    """Whoever sends long ones is forgotten sooner; the latest are remembered."""
    first = await edge.gate.admit(Shown("first"))
    assert await edge.gate.admit(Shown("first")) is first
    sessions = [await edge.gate.admit(Shown(f"{number:a>16000}")) for number in range(2500)]
    assert await edge.gate.admit(Shown(f"{2499:a>16000}")) is sessions[-1]
    assert await edge.gate.admit(Shown("first")) is not first


@pytest.mark.parametrize("token", ["a\tb", "a\nb: c", "é", "a\x00", "=", "x" * 20_000])
async def test_what_can_be_no_token_is_not_passed_on(guarded: Core, edge: AnEdge, token: str) -> None:
    """It could not go over each protocol as it is, and a link that breaks would be taken for a core that is away."""
    with pytest.raises(Unauthenticated, match="no API key and no access token"):
        await edge.gate.admit(Shown(token))


async def test_rates_hold_per_address(core: Core, stack: AsyncExitStack) -> None:
    """Whatever credentials are shown from there."""
    edge = await start_edge(stack, core.addresses, principal_requests=1e-3)
    await (await edge.gate.admit(Shown("one"))).service.publish("t", [new_message(b"x")])
    for shown in (Shown("one"), Shown("two"), Shown()):
        with pytest.raises(Overloaded):
            await (await edge.gate.admit(shown)).service.get_data("t")
    await (await edge.gate.admit(Shown("one", address="192.0.2.2"))).service.get_data("t")
    with pytest.raises(PermissionDenied, match="at the core"):
        _ = (await edge.gate.admit(Shown("one"))).keys


async def test_an_edge_is_measured(core: Core, stack: AsyncExitStack) -> None:
    """Operations by door, what its bounds hold, and each address of the core."""
    edge = await start_edge(stack, core.addresses)
    caller = await at_door("rest", edge, stack)
    assert await caller.publish(None) == await caller.read(None) == OK
    await core.rest.close()
    await until(lambda: "open" in edge.health.checks[f"core {core.address('rest')}"].detail)
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.admin, timeout=30))
    told = (await http.get("/metrics")).text.splitlines()
    assert 'trivium_operations_total{code="ok",door="rest",operation="Publish"} 1.0' in told
    assert 'trivium_operations_total{code="ok",door="rest",operation="GetData"} 1.0' in told
    assert f'trivium_check_state{{check="core {core.address("grpc")}"}} 0.0' in told
    assert f'trivium_check_state{{check="core {core.address("rest")}"}} 1.0' in told
    assert 'trivium_bound_used{bound="streams"} 0.0' in told
    assert 'trivium_bound_limit{bound="streams"} 5000.0' in told
    assert 'trivium_bound_used{bound="uncommitted_bytes"} 0.0' in told
