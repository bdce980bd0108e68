"""Access tokens at the doors: a real issuer, REST and gRPC."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count

import grpc.aio
import httpx2
import msgspec
import pytest
from dependency_injector import providers

from container import Container
from core.health import State
from core.issuer import Issuer
from core.jwks import IssuerKeys
from core.policy import Grants, Policy
from core.settings import MEMORY, Settings
from core.tokens import AccessTokens
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from testing.plugin import Trivium
from tests.core.issuing import AUDIENCE, Key, TestIssuer, ec, okp, public, rsa
from tests.core.opening import until

POLICY = Policy(scopes={"orders:read": Grants(read=("orders.#",)), "orders:write": Grants(publish=("orders.#",))})
SIGNERS: tuple[tuple[str, Key], ...] = (("RS256", rsa(0)), ("ES256", ec()), ("PS256", rsa(1)), ("EdDSA", okp()))


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as issuer:
        yield issuer


@pytest.fixture
def trivium_settings(issuer: TestIssuer) -> Settings:
    return Settings(
        data_dir=MEMORY,
        rest_port=0,
        grpc_port=0,
        auth="required",
        policy="overridden",
        token_issuer=issuer.url,
        token_audience=AUDIENCE,
        token_leeway_seconds=0,
    )


@pytest.fixture
def trivium_container(trivium_container: Container, trivium_settings: Settings) -> Container:
    """Looks for unknown keys without a cool-down, since a test rotates faster than an issuer."""
    keys = IssuerKeys(
        Issuer(trivium_settings),
        trivium_settings.algorithms,
        trivium_container.health(),
        refresh_seconds=0.1,
        stale_seconds=3600,
        cool_down_seconds=0,
    )
    trivium_container.tokens.override(providers.Object(AccessTokens(keys, trivium_settings)))
    trivium_container.policy.override(providers.Object(POLICY))
    return trivium_container


@pytest.fixture
async def rest(trivium: Trivium) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=trivium.rest, timeout=60) as client:
        yield client


@pytest.fixture
async def stub(trivium: Trivium) -> AsyncIterator[MessagesStub]:
    async with grpc.aio.insecure_channel(trivium.grpc) as channel:
        yield MessagesStub(channel)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def rest_code(rest: httpx2.AsyncClient, token: str, topic: str = "orders.new") -> str:
    answer = await rest.post(f"/api/topics/{topic}/messages", content=b"x", headers=bearer(token))
    return "ok" if answer.is_success else str(answer.json()["code"])


async def grpc_code(stub: MessagesStub, token: str, topic: str = "orders.new") -> str:
    request = pb.PublishRequest(topic=topic, messages=[pb.Message(data=b"x")])
    try:
        await stub.Publish(request, metadata=tuple(bearer(token).items()))
    except grpc.aio.AioRpcError as error:
        return error.code().name.lower()
    return "ok"


async def test_a_token_opens_what_its_scopes_say(
    issuer: TestIssuer, rest: httpx2.AsyncClient, stub: MessagesStub
) -> None:
    """The same at both doors, and so is everything that is refused."""
    cases = [
        (issuer.token(), "orders.new", "ok"),
        (issuer.token(), "stock", "permission_denied"),
        (issuer.token(scope="orders:read"), "orders.new", "permission_denied"),
        (issuer.token(scope="unheard-of"), "orders.new", "permission_denied"),
        (issuer.token(aud="other"), "orders.new", "unauthenticated"),
        (issuer.token(exp=1), "orders.new", "unauthenticated"),
        (issuer.token(rsa(9)), "orders.new", "unauthenticated"),
        (issuer.token(alg="RS512"), "orders.new", "unauthenticated"),
        (issuer.token(kid="unknown"), "orders.new", "unauthenticated"),
        ("x.y.z", "orders.new", "unauthenticated"),
    ]
    for token, topic, code in cases:
        assert (await rest_code(rest, token, topic), await grpc_code(stub, token, topic)) == (code, code)


class Rotation:
    """Signs with one key after another; a key goes once no request under way rests on it."""

    def __init__(self, issuer: TestIssuer) -> None:
        self.generation = 0
        self.under_way: Counter[str] = Counter()
        self._issuer = issuer
        self._numbers = count()
        self.next()

    def next(self) -> None:
        self.generation += 1
        self.alg, self._key = SIGNERS[self.generation % len(SIGNERS)]
        self.kid = f"r{self.generation}"
        kept = [key for key in self._issuer.keys if self.under_way[key["kid"]]]
        self._issuer.keys = [*kept, public(self._key, self.kid)]
        self.shared = self.token()

    def token(self) -> str:
        return self._issuer.token(self._key, kid=self.kid, alg=self.alg, jti=str(next(self._numbers)))


async def test_rotation_under_load(issuer: TestIssuer, rest: httpx2.AsyncClient, stub: MessagesStub) -> None:
    """No good request fails while key after key comes and goes, with tokens that are new and such that are known."""
    rotation = Rotation(issuer)
    codes: Counter[str] = Counter()

    async def worker(number: int) -> None:
        for step in range(40):
            kid = rotation.kid
            rotation.under_way[kid] += 1
            token = rotation.shared if step % 2 else rotation.token()
            codes[await (rest_code(rest, token) if number % 2 else grpc_code(stub, token))] += 1
            rotation.under_way[kid] -= 1
            if codes.total() % 40 == 0:
                rotation.next()

    async with asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(worker(number))
    assert codes == {"ok": 640}
    assert rotation.generation >= 16
    assert issuer.looks >= rotation.generation - 1


async def followed(stub: MessagesStub, token: str) -> tuple[str, str]:
    call = stub.Follow(pb.FollowRequest(topic="orders.new"), metadata=tuple(bearer(token).items()))
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "ended", ""


async def streamed(rest: httpx2.AsyncClient, token: str) -> bytes:
    async with rest.stream("GET", "/api/topics/orders.new/stream", headers=bearer(token)) as stream:
        assert stream.status_code == 200
        return await stream.aread()


async def test_a_stream_ends_when_its_token_does(
    issuer: TestIssuer, rest: httpx2.AsyncClient, stub: MessagesStub
) -> None:
    """Not before, and not much later; SSE ends cleanly, since it can't tell the reason any more."""
    await rest_code(rest, issuer.token())  # the keys are there, doors are warm
    expires = time.time() + 4
    token = issuer.token(exp=expires)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        following = group.create_task(followed(stub, token))
        streaming = group.create_task(streamed(rest, token))
    assert time.time() >= expires
    assert following.result() == ("UNAUTHENTICATED", "credential: the credential has expired")
    assert streaming.result().startswith(b"id: 1\n")


async def test_a_stream_ends_when_the_key_of_its_token_is_withdrawn(
    issuer: TestIssuer, rest: httpx2.AsyncClient, stub: MessagesStub, trivium: Trivium
) -> None:
    """That is how an issuer takes back what a stolen key signed."""
    token = issuer.token()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        following = group.create_task(followed(stub, token))
        streaming = group.create_task(streamed(rest, token))
        await until(lambda: trivium.container.service().streams == 2)
        issuer.keys = [public(ec(), "k2")]
    assert following.result() == (
        "UNAUTHENTICATED",
        "credential: the key that signed the access token was withdrawn",
    )
    assert streaming.result().startswith(b"id: 0\n")
    assert await rest_code(rest, token) == await grpc_code(stub, token) == "unauthenticated"
    assert await rest_code(rest, issuer.token(ec(), kid="k2", alg="ES256")) == "ok"


async def test_an_issuer_that_is_away(
    issuer: TestIssuer, rest: httpx2.AsyncClient, stub: MessagesStub, trivium: Trivium
) -> None:
    """Tokens go on while its keys count; one of a new key is told to come again, and readiness tells why."""
    await rest_code(rest, issuer.token())
    issuer.away()
    await until(lambda: trivium.container.health().checks["issuer"].state is State.DEGRADED)
    assert await rest_code(rest, issuer.token(jti="new")) == "ok"
    new = issuer.token(ec(), kid="k2", alg="ES256")
    assert await rest_code(rest, new) == await grpc_code(stub, new) == "unavailable"
    ready = await rest.get("/readyz?verbose", headers=bearer(issuer.token()))
    assert ready.status_code == 200
    assert "503" in msgspec.json.encode(ready.json()["checks"]["issuer"]).decode()
