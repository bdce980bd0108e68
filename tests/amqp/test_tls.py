"""The AMQP door over TLS, on a real RabbitMQ."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import httpx2
import msgspec
import pytest
from aio_pika.abc import AbstractChannel

from container import Container
from core.health import Health, State
from core.messages import new_message
from core.settings import InvalidSettings, Settings
from main import configure, running
from tests.amqp.conftest import Aside, take, until_state
from tests.amqp.test_rpc import calling
from tests.conftest import started_node
from tests.e2e.process import trivium_process
from tests.pki import Pki
from tools.certs import Pair
from tools.rabbitmq import Node, NodeTls
from transports.amqp import reasons
from transports.amqp.connection import Broker
from transports.amqp.tls import BrokerTls, problems
from transports.amqp.topology import Topology

USER = "trivium-by-certificate"
#: A password whose every form is to be kept out of sight.
PASSWORD = "p@ss/wörd: %41+sesame"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Of this module's node; its server certificate names localhost alone."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    pki.ours.server("localhost").write(pki.folder, "server")
    return pki


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aside: Aside, pki: Pki) -> Iterator[Node]:
    """It listens for TLS, and has a user for a certificate."""
    tls = NodeTls(pki.ca, pki.certificate, pki.key)
    with started_node(tmp_path_factory.mktemp("rabbitmq"), tls=tls) as node:
        node.ctl("add_user", USER, PASSWORD)
        node.ctl("set_permissions", USER, ".*", ".*", ".*")
        yield node


@pytest.fixture
def broker_url(node: Node) -> str:
    """What the tests' own clients use."""
    return node.url


def url(node: Node, user: str = "guest:guest@", host: str = "localhost") -> str:
    return f"amqps://{user}{host}:{node.tls_port}/"


def certified(settings: Settings, pki: Pki, pair: Pair, **others: str) -> Settings:
    certificate, key = pair.write(pki.folder, "broker-client")
    own = {"amqp_ca": str(pki.ca), "amqp_cert": str(certificate), "amqp_key": str(key)}
    return msgspec.structs.replace(settings, **own, **others)


@pytest.mark.parametrize("by", ["password", "certificate"])
async def test_everything_goes_over_tls(
    settings: Settings, client: AbstractChannel, names: Topology, node: Node, pki: Pki, by: str
) -> None:
    """Inbox, relay and RPC; with SASL EXTERNAL where a certificate takes the place of user and password."""
    if by == "password":
        settings = msgspec.structs.replace(settings, amqp_ca=str(pki.ca), amqp_url=url(node))
    else:
        settings = certified(settings, pki, pki.ours.client(USER), amqp_url=url(node, user=""))
    container = Container(settings=msgspec.structs.replace(settings, rest=False, grpc=False))
    async with running(container) as up:
        await until_state(container.health(), "broker", State.OK)
        queue = await client.declare_queue(exclusive=True)
        await queue.bind(names.out, "t")
        exchange = await client.get_exchange(names.inbox)
        await exchange.publish(aio_pika.Message(b"by AMQP"), "t")
        assert [message.body for message in await take(client, queue.name)] == [b"by AMQP"]
        await up.service.publish("t", [new_message(b"by another door")])
        assert [message.body for message in await take(client, queue.name)] == [b"by another door"]
        page = await (await calling(client, names)).document("ReadMessages", topic="t")
        assert [message["offset"] for message in page["messages"]] == ["1", "2"]
        user = USER if by == "certificate" else "guest"
        async with asyncio.timeout(30):
            while await over_tls(node) != [(user, "tlsv1.3")] * 3:  # RabbitMQ lists what is closing for a moment more
                pass


async def over_tls(node: Node) -> list[tuple[str, str]]:
    """User and protocol of each connection to the broker that is not in clear."""
    told = await asyncio.to_thread(node.ctl, "--formatter=json", "list_connections", "user", "ssl", "ssl_protocol")
    return [(one["user"], one["ssl_protocol"]) for one in json.loads(told) if one["ssl"]]


class TestTrouble:
    """Each is told by the check, in words that name what is wrong and hold no secret."""

    async def told(self, settings: Settings, health: Health) -> str:
        async with Broker(settings, health):
            return await until_state(health, "broker", State.DEGRADED)

    async def test_an_authority_that_is_not_trusted(
        self, settings: Settings, health: Health, node: Node, pki: Pki
    ) -> None:
        """Neither by the system nor by `amqp_ca`."""
        other = pki.folder / "other.pem"
        other.write_bytes(pki.other.certificate)
        for authorities in ("", str(other)):
            settings = msgspec.structs.replace(settings, amqp_url=url(node), amqp_ca=authorities)
            detail = await self.told(settings, Health())
            assert "the broker's certificate is not accepted: self-signed certificate in certificate chain" in detail
            assert "amqp_ca" in detail

    async def test_another_host_name(self, settings: Settings, health: Health, node: Node, pki: Pki) -> None:
        """The certificate is for localhost."""
        settings = msgspec.structs.replace(settings, amqp_url=url(node, host="127.0.0.1"), amqp_ca=str(pki.ca))
        detail = await self.told(settings, health)
        assert "not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'" in detail

    async def test_a_client_certificate_of_a_stranger(
        self, settings: Settings, health: Health, node: Node, pki: Pki
    ) -> None:
        """The broker does not know its authority."""
        settings = certified(settings, pki, pki.other.client(USER), amqp_url=url(node, user=""))
        async with Broker(settings, health):
            await until_state(health, "broker", State.DEGRADED, "does not trust the authority that signed amqp_cert")

    async def test_a_client_certificate_without_a_user(
        self, settings: Settings, health: Health, node: Node, pki: Pki
    ) -> None:
        """RabbitMQ refuses the login and names the mechanism."""
        settings = certified(settings, pki, pki.ours.client("nobody"), amqp_url=url(node, user=""))
        async with Broker(settings, health):
            detail = await until_state(health, "broker", State.DEGRADED, "ACCESS_REFUSED")
            assert "EXTERNAL" in detail

    async def test_a_broker_without_external(self, settings: Settings, health: Health, node: Node, pki: Pki) -> None:
        """The plugin that it lacks is named; once it is there, the door works."""
        settings = certified(settings, pki, pki.ours.client(USER), amqp_url=url(node, user=""))
        offer = "application:set_env(rabbit, auth_mechanisms, [{}])."
        await asyncio.to_thread(node.ctl, "eval", offer.format("'PLAIN'"))
        try:
            async with Broker(settings, health):
                await until_state(health, "broker", State.DEGRADED, "rabbitmq_auth_mechanism_ssl")
        finally:
            await asyncio.to_thread(node.ctl, "eval", offer.format("'PLAIN','AMQPLAIN','EXTERNAL'"))
        async with Broker(settings, health):
            await until_state(health, "broker", State.OK)

    async def test_a_port_without_tls(self, settings: Settings, health: Health, node: Node, pki: Pki) -> None:
        """An easy mistake."""
        address = f"amqps://guest:guest@localhost:{node.port}/"
        settings = msgspec.structs.replace(settings, amqp_url=address, amqp_ca=str(pki.ca))
        assert "there is no TLS on this port" in await self.told(settings, health)


async def test_renewed_files_are_used_for_the_next_connection(
    settings: Settings, health: Health, node: Node, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be used leaves the old in place."""
    settings = certified(settings, pki, pki.other.client(USER), amqp_url=url(node, user=""))
    async with Broker(settings, health):
        await until_state(health, "broker", State.DEGRADED, "amqp_cert")
        pki.ours.client(USER).write(pki.folder, "broker-client")
        await until_state(health, "broker", State.OK)
    tls = BrokerTls(settings)
    good = tls.context()
    (pki.folder / "broker-client.key").write_text("broken")
    assert tls.context() is good
    pki.ours.client(USER).write(pki.folder, "broker-client")
    assert tls.context() is not good
    assert tls.context() is tls.context()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"amqp_ca": "x"}, ["amqp_ca: takes an amqp_url that begins with amqps://"]),
        ({"amqp_url": "amqps://h", "amqp_cert": "x"}, ["amqp_key: is missing beside amqp_cert"]),
        ({"amqp_url": "amqps://h", "amqp_key": "x"}, ["amqp_cert: is missing beside amqp_key"]),
        (
            {"amqp_url": "amqps://u:sesame@h?ssl_options=%7B'verify_mode':0%7D"},
            ["amqp_url: takes no ssl_options: use amqp_ca, amqp_cert and amqp_key"],
        ),
        ({"amqp_url": "amqps://h", "amqp_ca": "/missing"}, ["amqp_ca: can't read the file: No such file or directory"]),
        (
            {"amqp_url": "amqps://h", "amqp_cert": "/missing", "amqp_key": "/missing"},
            [f"{name}: can't read the file: No such file or directory" for name in ("amqp_cert", "amqp_key")],
        ),
        ({"amqp_url": "amqps://h"}, []),
        ({}, []),
    ],
)
def test_settings_that_do_not_fit(
    settings: Settings, health: Health, given: dict[str, Any], expected: list[str]
) -> None:
    """They are told before anything is started, by `--check-config` too."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    if not expected:
        configure(flags, {})
        Broker(msgspec.structs.replace(settings, **given), health)
        return
    with pytest.raises(InvalidSettings) as caught:
        configure(flags, {})
    assert caught.value.problems == expected
    settings = msgspec.structs.replace(Settings(), **given)
    assert problems(settings) == expected
    with pytest.raises(InvalidSettings):
        Broker(settings, health)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "asks for a client certificate: set amqp_cert"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "refuses the handshake: amqp_cert is missing"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "refuses the handshake: certificate expired"),
        ("UNSUPPORTED_PROTOCOL", "has no TLS 1.2"),
        ("SOMETHING_ELSE", "[SSL: SOMETHING_ELSE] something (_ssl.c:1)"),
    ],
)
def test_what_openssl_says(error: str, text: str) -> None:
    """As one who sets it up needs it; what is not known passes as it is."""
    assert text in reasons.explain(ssl.SSLError(1, f"[SSL: {error}] something (_ssl.c:1)"))


@pytest.mark.parametrize("password", [PASSWORD, "wrong" + PASSWORD])
async def test_a_password_is_never_logged(node: Node, pki: Pki, tmp_path: Path, password: str) -> None:
    """In no form, at the most talkative level; nor does `/readyz` tell it. It came from a file."""
    secret = tmp_path / "url"
    secret.write_text(url(node, user=f"{USER}:{quote(password, safe='')}@"))
    environment = {"TRIVIUM_AMQP_URL_FILE": str(secret)}
    flags = ("--data-dir=:memory:", "--no-grpc", "--log-level=debug", f"--amqp-ca={pki.ca}")
    async with trivium_process(*flags, environment=environment) as trivium:
        state = "ok" if password == PASSWORD else "degraded"
        async with httpx2.AsyncClient(timeout=30) as client, asyncio.timeout(30):
            while True:
                told = (await client.get(f"{trivium.rest}/readyz?verbose")).text
                if json.loads(told)["checks"].get("broker", {}).get("state") == state:
                    break
        shown = told + json.dumps(trivium.lines, ensure_ascii=False)
    assert USER in shown
    for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), json.dumps(PASSWORD)[1:-1], "ss/w", "sesame"):
        assert form not in shown
