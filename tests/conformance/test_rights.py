"""Every route, RPC and AMQP operation, with every credential that must not do: refused, and everywhere alike.

What is walked is what is served: the table that routes REST, the services that gRPC reflection lists, the names that
AMQP RPC knows. Something new is walked by itself.
"""

import asyncio
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aio_pika
import grpc.aio
import httpx2
import msgspec
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from container import Container
from core.keys import KeyRing
from core.policy import OPERATIONS, Needs, read_policy
from core.settings import Settings
from core.telemetry.meter import Meter
from main import Running, running
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.core.issuing import AUDIENCE, TestIssuer, rsa
from transports.amqp.operations import Operations
from transports.rest.description import Description
from transports.rest.handlers import Handlers
from transports.rest.routes import Operation, operations

POLICY = """
[principals.owner]
publish = ["#"]
read = ["#"]
consume = ["#"]
admin = ["#"]
rabbitmq_users = ["guest"]
[principals.poor]
[principals.elsewhere]
publish = ["other.#"]
read = ["other.#"]
consume = ["other.#"]
admin = ["other.#"]
[scopes.all]
publish = ["#"]
read = ["#"]
consume = ["#"]
admin = ["#"]
[scopes.other]
publish = ["other.#"]
read = ["other.#"]
consume = ["other.#"]
admin = ["other.#"]
"""
POLICY_OF_POOR = '[principals.poor]\nrabbitmq_users = ["guest"]\n'
TOPIC = "orders.new"
#: What is for everybody, at each door. Nothing else may be.
PUBLIC_ROUTES = {"live", "ready"}
PUBLIC_SERVICES = {"grpc.health.v1.Health"}


class Guarded:
    """A Trivium that requires authentication, and credentials by what is wrong with them."""

    def __init__(self, up: Running, container: Container, credentials: Mapping[str, str | None]) -> None:
        self.rest = up.doors["rest"].address
        self.grpc = up.doors["grpc"].address
        self.routes = operations(Handlers(container.gate(), container.health(), container.settings()), Description("1"))
        self.credentials = credentials
        self.container = container


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as issuer:
        yield issuer


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, issuer: TestIssuer) -> Settings:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    return msgspec.structs.replace(
        settings,
        auth="required",
        policy=str(policy),
        auth_failures=10_000,
        token_issuer=issuer.url,
        token_audience=AUDIENCE,
    )


@pytest.fixture
async def guarded(settings: Settings, issuer: TestIssuer) -> AsyncIterator[Guarded]:
    container = Container(settings=settings)
    async with running(container) as up:
        await container.publisher().ready()
        yield Guarded(up, container, {**await _credentials(container.keys()), **_tokens(issuer)})


async def _credentials(keys: KeyRing) -> dict[str, str | None]:
    _, good = await keys.create("owner")
    _, poor = await keys.create("poor")
    _, elsewhere = await keys.create("elsewhere")
    revoked, revoked_key = await keys.create("elsewhere")
    await keys.revoke(revoked.id)
    _, expired = await keys.create("poor", days=1e-9)
    return {
        "good": good,
        "none": None,
        "unknown": f"trv_{'0' * 12}_{good[17:]}",
        "tampered": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "revoked": revoked_key,
        "expired": expired,
        "no token": "nonsense",
        "poor": poor,
        "elsewhere": elsewhere,
    }


def _tokens(issuer: TestIssuer) -> dict[str, str]:
    """Access tokens, each wrong in one thing; their subject is a principal, which has to be of no use."""
    good = issuer.token(sub="owner", scope="all")
    header, claims, signature = good.split(".")
    unsigned = _part(b'{"alg":"none","typ":"at+jwt","kid":"k1"}')
    other = _part(msgspec.json.encode(issuer.claims(sub="boss", scope="all")))
    return {
        "token": good,
        "expired token": issuer.token(sub="owner", scope="all", exp=1_000_000_000),
        "wrong audience": issuer.token(sub="owner", scope="all", aud="https://other.example"),
        "wrong issuer": issuer.token(sub="owner", scope="all", iss="https://other.example"),
        "wrong algorithm": issuer.token(sub="owner", scope="all", alg="RS512"),
        "symmetric": _signed_with_what_is_public(claims),
        "none at all": f"{unsigned}.{claims}.",
        "none but signed": f"{unsigned}.{claims}.{signature}",
        "tampered token": f"{header}.{other}.{signature}",
        "foreign key": issuer.token(rsa(9), sub="owner", scope="all"),
        "ID token": issuer.token(typ="JWT", sub="owner", scope="all"),
        "poor token": issuer.token(sub="owner", scope="unheard-of"),
        "token elsewhere": issuer.token(sub="owner", scope="other"),
    }


def _signed_with_what_is_public(claims: str) -> str:
    """By HMAC, with the issuer's public key for the secret (RFC 8725, 2.1)."""
    header = _part(b'{"alg":"HS256","typ":"at+jwt","kid":"k1"}')
    signature = hmac.digest(rsa().as_pem(private=False), f"{header}.{claims}".encode(), "sha256")
    return f"{header}.{claims}.{_part(signature)}"


def _part(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


UNKNOWN = (
    *("none", "unknown", "tampered", "revoked", "expired", "no token"),
    *("expired token", "wrong audience", "wrong issuer", "wrong algorithm", "symmetric", "none at all"),
    *("none but signed", "tampered token", "foreign key", "ID token"),
)
POOR = ("poor", "poor token", "elsewhere", "token elsewhere")


def _code(operation: str, who: str) -> str | None:
    """The code that `who` is refused with, None for somebody who may."""
    needs = OPERATIONS[operation]
    if needs is Needs.NOTHING:
        return None
    if who in UNKNOWN:
        return "unauthenticated"
    if needs is Needs.IDENTITY or (
        operation == "list_topics" and who.endswith("elsewhere")
    ):  # it lists what they may read
        return None
    return "permission_denied"


async def test_rest_refuses_at_every_route(guarded: Guarded) -> None:
    """With the code of the table, whatever the request is like; only the probes are for everybody."""
    assert {route.name for route in guarded.routes if route.public} == PUBLIC_ROUTES
    async with httpx2.AsyncClient(base_url=guarded.rest, timeout=30) as http:
        for route in guarded.routes:
            for who in (*UNKNOWN, *POOR):
                for header in ("Authorization", "X-API-Key"):
                    answer = await _request(http, route, guarded.credentials[who], header)
                    expected = _code(route.operation, who)
                    if expected is None:
                        assert answer.status_code not in (401, 403), (route.name, who)
                        continue
                    assert answer.json()["code"] == expected, (route.name, who)
                    assert ("www-authenticate" in answer.headers) is (expected == "unauthenticated")


async def _request(http: httpx2.AsyncClient, route: Operation, token: str | None, header: str) -> httpx2.Response:
    path = route.path.format(topic=TOPIC, offset=1, id="some")
    headers = {}
    if token is not None:
        headers[header] = f"Bearer {token}" if header == "Authorization" else token
    body = None
    if route.method == "POST":
        body = b'{"principal": "poor"}' if route.path == "/api/keys" else b'{"message": "x"}'
    if body is not None:
        headers["Content-Type"] = "application/json"
    async with http.stream(route.method, path, headers=headers, content=body) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            await answer.aread()
        return answer


async def test_a_credential_in_the_url_is_none(guarded: Guarded) -> None:
    """URLs are logged and shared: what stands there is no credential, and not a parameter either."""
    async with httpx2.AsyncClient(base_url=guarded.rest, timeout=30) as http:
        for name in ("access_token", "key", "api_key"):
            for who in ("good", "token"):
                answer = await http.get(f"/api/topics?{name}={guarded.credentials[who]}")
                assert answer.json()["code"] == "unauthenticated"


async def test_the_token_that_the_others_are_made_of_is_good(guarded: Guarded) -> None:
    """So each of them is refused for what is wrong with it."""
    metadata = (("authorization", f"Bearer {guarded.credentials['token']}"),)
    async with httpx2.AsyncClient(base_url=guarded.rest, timeout=30) as http:
        assert (await http.get("/api/topics", headers=dict(metadata))).status_code == 200
    async with grpc.aio.insecure_channel(guarded.grpc) as channel:
        stub: Any = MessagesStub(channel)
        await stub.ListTopics(pb.ListTopicsRequest(), metadata=metadata)


async def test_grpc_refuses_at_every_rpc(guarded: Guarded) -> None:
    """Streams and reflection included; only the health service is for everybody."""
    async with grpc.aio.insecure_channel(guarded.grpc) as channel:
        methods = await _methods(channel, guarded.credentials["good"])
        assert {f"{method.containing_service.full_name}" for method in methods} >= {
            "trivium.v1.Messages",
            "grpc.reflection.v1alpha.ServerReflection",
            *PUBLIC_SERVICES,
        }
        for method in methods:
            if method.containing_service.full_name in PUBLIC_SERVICES:
                continue
            for who in (*UNKNOWN, *POOR):
                told = await _call(channel, method, guarded.credentials[who])
                assert told == _code(_operation(method), who), (method.full_name, who)


def _operation(method: MethodDescriptor) -> str:
    if "reflection" in method.full_name:
        return "describe"
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name).strip("_")
    return {"publish_stream": "publish"}.get(name, name)


async def _methods(channel: grpc.aio.Channel, token: str | None) -> list[MethodDescriptor]:
    """Of all services, as reflection tells them to somebody who may ask."""
    stub: Any = ServerReflectionStub(channel)
    metadata = (("authorization", f"Bearer {token}"),)
    pool = descriptor_pool.Default()
    call = stub.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]), metadata=metadata)
    (answer,) = [answer async for answer in call]
    services = [pool.FindServiceByName(one.name) for one in answer.list_services_response.service]
    return [method for service in services for method in service.methods]


async def _call(channel: grpc.aio.Channel, method: MethodDescriptor, token: str | None) -> str | None:
    """The code that a call ends with; None for one that is answered, or refused for other reasons."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    if "topic" in method.input_type.fields_by_name:
        request.topic = TOPIC
    if "messages" in method.input_type.fields_by_name:
        request.messages.add(data=b"x")
    path = f"/{method.containing_service.full_name}/{method.name}"
    call: Any = channel.stream_stream(path)(  # type: ignore[call-arg]  # the stubs know of no defaults
        metadata=None if token is None else (("authorization", f"Bearer {token}"),),
        timeout=30,
    )
    # not from an iterator: if its write comes too late, grpc.aio cancels the call, and the refusal is lost
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(request.SerializeToString())
        await call.done_writing()
    try:
        first = await call.read()
        if method.name == "PublishStream" and first is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
            answer: Any = message_factory.GetMessageClass(method.output_type)()
            answer.ParseFromString(first)
            return answer.status.reason or None
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has the calls' trailing metadata
        info = ErrorInfo()
        assert status is not None
        assert any(detail.Unpack(info) for detail in status.details)
        return info.reason if info.reason in ("unauthenticated", "permission_denied") else None
    finally:
        call.cancel()
    return None


@pytest.mark.parametrize(
    ("table", "code"),
    [(POLICY.replace("guest", "somebody"), "unauthenticated"), (POLICY_OF_POOR, "permission_denied")],
)
async def test_amqp_refuses_at_every_operation(guarded: Guarded, settings: Settings, table: str, code: str) -> None:
    """The user that RabbitMQ vouches for is not in the policy, or it grants them nothing."""
    path = Path(settings.policy)
    await asyncio.to_thread(path.write_text, table)
    guarded.container.gate().reload(read_policy(path))
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        answers = await _arrivals(await channel.declare_queue(exclusive=True))
        for name in Operations(Meter.of("amqp", settings), settings.limits).names:
            body = json.dumps({"topic": TOPIC, "offset": 1, "messages": [{"data": 1}]}).encode()
            call = aio_pika.Message(body, type=name, reply_to=answers.queue, user_id="guest")
            await channel.default_exchange.publish(call, f"{settings.amqp_prefix}.rpc")
            answer = await answers.next()
            assert json.loads(answer.body)["code"] == code, name
        letters = await _arrivals(await channel.get_queue(f"{settings.amqp_prefix}.dead", ensure=False))
        inbox = await channel.get_exchange(f"{settings.amqp_prefix}.in", ensure=False)
        await inbox.publish(aio_pika.Message(b"x", user_id="guest"), TOPIC)
        letter = await letters.next()
        assert letter.headers["x-trivium-error-code"] == code


class _Arrivals:
    """What comes to a queue, acknowledged."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def take(self, message: AbstractIncomingMessage) -> None:
        await message.ack()
        self._messages.put_nowait(message)

    async def next(self) -> AbstractIncomingMessage:
        async with asyncio.timeout(30):
            return await self._messages.get()


async def _arrivals(queue: AbstractQueue) -> _Arrivals:
    arrivals = _Arrivals(queue.name)
    await queue.consume(arrivals.take)
    return arrivals


async def test_who_guesses_is_slowed_at_both_doors_and_others_are_not(settings: Settings) -> None:
    """Past the bound an address is told when to come back; who was let in before goes on."""
    strict = msgspec.structs.replace(settings, auth_failures=5, amqp=False)
    container = Container(settings=strict)
    async with (
        running(container) as up,
        httpx2.AsyncClient(base_url=up.doors["rest"].address, timeout=30) as http,
        grpc.aio.insecure_channel(up.doors["grpc"].address) as channel,
    ):
        _, key = await container.keys().create("owner")
        good = {"X-API-Key": key}
        stub: Any = MessagesStub(channel)
        assert (await http.get("/api/data", headers=good)).status_code == 200
        codes = [(await http.get("/api/data", headers={"X-API-Key": "guess"})).status_code for _ in range(8)]
        assert codes == [401] * 5 + [429] * 3
        refused = await http.get("/api/data", headers={"X-API-Key": "guess"})
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetData(pb.GetDataRequest(), metadata=(("x-api-key", "guess"),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # it has the calls' trailing metadata
        assert status is not None
        assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
        assert (await http.get("/api/data", headers=good)).status_code == 200
        await stub.GetData(pb.GetDataRequest(), metadata=(("authorization", f"Bearer {key}"),))
