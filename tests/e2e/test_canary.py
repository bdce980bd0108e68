"""Secrets, wherever they come from, go nowhere: not to the log at its most talkative, nor to answers or figures.

`tests/keys/test_revocation.py` looks at what administration does with keys, `tests/amqp/test_tls.py` at the forms of
a password.
"""

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import h2.config
import h2.connection
import h2.events
import httpx2
import pytest

from core.keys import KeyRing
from core.stores.keys import SqliteKeys
from proto.trivium.v1 import keys_pb2
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.keys_pb2_grpc import KeysStub
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.core.issuing import AUDIENCE, TestIssuer, rsa
from tests.e2e.process import TriviumProcess, trivium_process
from tests.pki import Pki

CANARY = "sesame-CaNaRy-4711"
TALKATIVE = ("--log-level=debug", "--access-log=full")
POLICY = """
[principals.boss]
read = ["#"]
publish = ["#"]
admin = ["#"]
[scopes.read]
read = ["#"]
"""
Headers = Sequence[tuple[str, str]]


async def told(process: TriviumProcess) -> str:
    """What the admin listener tells."""
    async with httpx2.AsyncClient(base_url=process.admin, timeout=30) as http:
        answers = [await http.get(path) for path in ("/metrics", "/readyz?verbose", "/nowhere?" + CANARY)]
    return "".join(map(shown, answers))


def shown(answer: httpx2.Response) -> str:
    return f"{answer.headers} {answer.text}"


def logged(process: TriviumProcess) -> str:
    return json.dumps(process.lines, ensure_ascii=False)


async def test_the_password_of_the_broker(tmp_path: Path, amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a flag, the environment, a file or TOML; RabbitMQ is there, and refuses it."""
    monkeypatch.delenv("AMQP_URL", raising=False)  # it would go before TOML
    parts = urlsplit(amqp_url)
    url = parts._replace(netloc=f"{parts.username}:{CANARY}@{parts.hostname}:{parts.port}").geturl()
    secret, toml = tmp_path / "url", tmp_path / "trivium.toml"
    secret.write_text(url)
    toml.write_text(f'amqp_url = "{url}"\n')
    ways: list[tuple[list[str], Mapping[str, str]]] = [
        ([f"--amqp-url={url}"], {}),
        ([], {"AMQP_URL": url}),
        ([], {"TRIVIUM_AMQP_URL_FILE": str(secret)}),
        ([f"--config={toml}"], {}),
    ]

    async def shows(flags: list[str], environment: Mapping[str, str]) -> str:
        doors = ("--data-dir=:memory:", "--no-grpc", *TALKATIVE)
        async with trivium_process(*doors, *flags, environment=environment) as process:
            await process.logged("part is not well")
            async with httpx2.AsyncClient(base_url=process.rest, timeout=30) as http:
                verbose = await http.get("/readyz?verbose")
            return logged(process) + shown(verbose) + await told(process)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        found = [group.create_task(shows(*way)) for way in ways]
    for text in (task.result() for task in found):
        assert "ACCESS_REFUSED" in text
        assert CANARY not in text


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    with TestIssuer() as issuer:
        yield issuer


@pytest.fixture
async def key(tmp_path: Path) -> str:
    ring = KeyRing(SqliteKeys(str(tmp_path)))
    _, text = await ring.create("boss")
    return text


@pytest.fixture
async def process(tmp_path: Path, pki: Pki, issuer: TestIssuer, key: str) -> AsyncIterator[TriviumProcess]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    flags = ("--no-amqp", f"--data-dir={tmp_path}", "--auth=required", f"--policy={policy}", *TALKATIVE, *pki.flags())
    tokens = (f"--token-issuer={issuer.url}", f"--token-audience={AUDIENCE}", "--auth-failures=100000")
    async with trivium_process(*flags, *tokens) as process:
        yield process


async def test_credentials_and_the_key_of_tls(process: TriviumProcess, pki: Pki, issuer: TestIssuer, key: str) -> None:
    """Good ones and bad ones, where they belong and where they do not, at each door and version of HTTP."""
    token = issuer.token(scope="read")
    strange = issuer.token(rsa(9), scope="read")
    tokens = [key, key[:-1], f"trv_{CANARY}", CANARY, token, token[:-4], strange]
    answers = [await told(process)]
    for version in (1, 2):
        async with httpx2.AsyncClient(
            base_url=process.rest, verify=pki.context(), timeout=30, http1=version == 1, http2=version == 2
        ) as http:
            made = (await http.post("/api/keys", headers={"X-API-Key": key}, json={"principal": "boss"})).json()
            answers += [await _by_rest(http, one) for one in tokens]
            await http.delete(f"/api/keys/{made['key']}", headers={"X-API-Key": key})  # in place of its id
            await http.delete(f"/api/keys/{made['id']}", headers={"X-API-Key": key})
        tokens.append(made["key"])
    credentials = grpc.ssl_channel_credentials(pki.ours.certificate)
    async with grpc.aio.secure_channel(process.grpc, credentials) as channel:
        stub: Any = KeysStub(channel)
        wanted = keys_pb2.CreateKeyRequest(principal="boss")
        tokens.append((await stub.CreateKey(wanted, metadata=(("x-api-key", key),))).key)
        answers += [await _by_grpc(channel, one) for one in tokens]
    for one in tokens:
        answers += [await _not_utf8(process, pki, name, one) for name in (b"x-api-key", b"authorization")]
    answers.append(await told(process))
    log, answered = logged(process), "".join(answers)
    assert log.count('"log.logger": "trivium.access"') > 100
    assert '"log.level": "debug"' in log
    assert "unauthenticated" in answered
    secrets = [CANARY, *map(_basic, tokens), *(part for one in tokens for part in _parts(one))]
    secrets += [line for line in pki.key.read_text().splitlines() if not line.startswith("-----")]
    for secret in secrets:
        assert secret not in log, secret
        assert secret not in answered, secret


async def _by_rest(http: httpx2.AsyncClient, secret: str) -> str:
    good = ("X-API-Key", secret)
    bearer = ("Authorization", f"Bearer {secret}")
    ways: list[Headers] = [
        *([good], [bearer], [good, bearer]),
        *([("Authorization", secret)], [("Authorization", f"Basic {_basic(secret)}")]),
        *([("Cookie", f"token={secret}")], [("Proxy-Authorization", f"Bearer {secret}")]),
    ]
    answers = [
        await http.request(method, path, headers=list(headers), params=query, content=body)
        for headers in ways
        for method, path, query, body in (
            ("GET", "/api/topics", {}, None),
            ("GET", "/api/topics", {"access_token": secret}, None),
            ("GET", "/readyz", {"verbose": secret}, None),
            ("POST", "/api/data", {"key": secret}, b"{"),
            ("GET", "/nowhere", {"key": secret}, None),
        )
    ]
    return "".join(map(shown, answers))


async def _by_grpc(channel: grpc.aio.Channel, secret: str) -> str:
    stub: Any = MessagesStub(channel)
    good = ("x-api-key", secret)
    bearer = ("authorization", f"Bearer {secret}")
    answers: list[str] = []
    for metadata in ([good], [bearer], [good, bearer], [("authorization", secret)], [("cookie", secret)]):
        call = stub.GetMessage(pb.GetMessageRequest(topic="t", offset=9), metadata=metadata, timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        answers.append(f"{caught.value.details()} {caught.value.trailing_metadata()}")
    return "".join(answers)


async def _not_utf8(process: TriviumProcess, pki: Pki, name: bytes, secret: str) -> str:
    """As no gRPC library would send it."""
    call = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/trivium.v1.Messages/GetData")]
    call += [(b":authority", b"localhost"), (b"te", b"trailers"), (b"content-type", b"application/grpc")]
    async with _http2(process.grpc, pki.context()) as (protocol, events):
        protocol.send_headers(1, [*call, (name, b"Bearer " + secret.encode() + b"\xff")])
        protocol.send_data(1, b"\0\0\0\0\0", end_stream=True)
        return "".join([str(getattr(event, "headers", "")) async for event in events])


@asynccontextmanager
async def _http2(
    address: str, context: ssl.SSLContext
) -> AsyncIterator[tuple[h2.connection.H2Connection, AsyncIterator[h2.events.Event]]]:
    """A connection, and what happens on it until its first stream has ended."""
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    configuration = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
    protocol = h2.connection.H2Connection(configuration)
    protocol.initiate_connection()

    async def events() -> AsyncIterator[h2.events.Event]:
        while True:
            writer.write(protocol.data_to_send())
            data = await reader.read(65536)
            assert data, "closed without an answer"
            for event in protocol.receive_data(data):
                yield event
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    return

    try:
        yield protocol, events()
    finally:
        writer.close()


def _basic(secret: str) -> str:
    return b64encode(f"user:{secret}".encode()).decode()


def _parts(secret: str) -> list[str]:
    """What must not be seen of it: of a key all but its id and checksum, of a token its claims and its signature."""
    if "." in secret:
        return [part[:40] for part in secret.split(".")[1:]]
    return [secret[17:-8]] if len(secret) > 40 else [secret]
