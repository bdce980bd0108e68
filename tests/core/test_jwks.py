"""The keys of the issuer: which count, where they come from, how long, and how often somebody looks."""

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import issuer as issuer_module
from core.errors import Unauthenticated, Unavailable
from core.health import Health, State
from core.issuer import MAX_BYTES, Issuer, IssuerAway
from core.jwks import IssuerKeys, read_key_set
from core.settings import Settings
from core.tokens import AccessTokens
from tests.core.issuing import AUDIENCE, KEY_SET, OAUTH, OPENID, TestIssuer, ec, okp, public, rsa
from tests.core.opening import until

ALGORITHMS = Settings().algorithms


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def a_settings(issuer: TestIssuer, **changes: Any) -> Settings:
    return Settings(**{"token_issuer": issuer.url, "token_audience": AUDIENCE, **changes})


def keys_of(issuer: TestIssuer, health: Health, time: Time, *, refresh: float = 3600, source: Any = None) -> IssuerKeys:
    """Looked at regularly only where `refresh` is short; the clock of the cool-down and of staleness is `time`."""
    return IssuerKeys(
        source or Issuer(a_settings(issuer)),
        ALGORITHMS,
        health,
        refresh_seconds=refresh,
        stale_seconds=600,
        cool_down_seconds=10,
        now=time,
    )


@pytest.fixture
async def keys(issuer: TestIssuer, health: Health, time: Time) -> AsyncIterator[IssuerKeys]:
    async with keys_of(issuer, health, time) as keys:
        yield keys


def key_set(*keys: Any) -> bytes:
    return msgspec.json.encode({"keys": keys})


USELESS: dict[str, tuple[Callable[[], Any], str]] = {
    "for encryption": (lambda: public(rsa(), "x", use="enc"), "not for signatures"),
    "for signing alone": (lambda: public(rsa(), "x", key_ops=["sign"]), "not for signatures"),
    "for another algorithm": (lambda: public(rsa(), "x", alg="RSA-OAEP"), "none of the algorithms"),
    "for one that is not configured": (lambda: public(rsa(), "x", alg="RS512"), "none of the algorithms"),
    "for one of another kind": (lambda: public(rsa(), "x", alg="ES256"), "none of the algorithms"),
    "a secret": (lambda: {"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "none of the algorithms"),
    "of a kind to come": (
        lambda: {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "x"},
        "none of the algorithms",
    ),
    "too short": (lambda: {"kty": "RSA", "n": "w" * 171, "e": "AQAB", "kid": "x"}, "1024 bits"),
    "too long": (lambda: {"kty": "RSA", "n": "w" * 1400, "e": "AQAB", "kid": "x"}, "8400 bits"),
    "an exponent of one": (lambda: {**public(rsa(), "x"), "e": "AQ"}, "can't be read"),
    "another curve": (lambda: public(ec("P-384"), "x"), "on a curve"),
    "the curve of Bitcoin": (lambda: public(ec("secp256k1"), "x"), "on a curve"),
    "for key agreement": (lambda: public(okp("X25519"), "x"), "on a curve"),
    "a point that is on no curve": (lambda: {**public(ec(), "x"), "x": "AQ"}, "can't be read"),
    "private": (lambda: {**rsa().as_dict(private=True), "kid": "x"}, "private"),
    "without a kid": (lambda: public(rsa(), None), "no kid"),
    "with an empty kid": (lambda: public(rsa(), ""), "no kid"),
    "with a kid for the log": (lambda: public(rsa(), "x\n"), "no kid"),
    "with a long kid": (lambda: public(rsa(), "x" * 256), "no kid"),
    "with a number as kid": (lambda: {**public(rsa(), "x"), "kid": 1}, "no JSON Web Key"),
    "with a kid in no UTF-8": (lambda: msgspec.Raw(b'{"kty": "RSA", "kid": "caf\xe9"}'), "no JSON Web Key"),
    "with the kid of another": (lambda: public(rsa(1), "good"), "kid of a key before"),
    "without a modulus": (lambda: {"kty": "RSA", "kid": "x", "e": "AQAB"}, "can't be read"),
    "a modulus in no base64": (lambda: {**public(rsa(), "x"), "n": "\u00e9"}, "no base64"),
    "in no base64": (lambda: {**public(rsa(), "x"), "e": "=/+"}, "can't be read"),
    "a list": (list, "no JSON Web Key"),
    "nothing": (lambda: None, "no JSON Web Key"),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_key_that_does_not_count(name: str) -> None:
    """The others do; the log says why."""
    make, reason = USELESS[name]
    found, (ignored,) = read_key_set(key_set(public(rsa(), "good"), make()), ALGORITHMS)
    assert list(found) == ["good"]
    assert reason in ignored
    assert ignored.startswith("key 1: ")


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": []}',
        b'{"keys": [{}]}',
        b'{"keys": ' + b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "keys": []}',
        b"\xff",
        b"<html>",
        b'{"k\xe9ys": []}',
    ],
    ids=range(12),
)
def test_what_is_no_key_set(document: bytes) -> None:
    """Or has no key that counts: an issuer whose document is broken for a while is as good as away."""
    with pytest.raises(IssuerAway):
        read_key_set(document, ALGORITHMS)


def test_a_set_has_a_bound() -> None:
    """In keys as well as in bytes."""
    found, ignored = read_key_set(key_set(*(public(ec(), str(number)) for number in range(101))), ALGORITHMS)
    assert len(found) == 100
    assert ignored == ["all above 100"]


def test_a_key_takes_the_algorithms_of_its_kind() -> None:
    """One that names its algorithm takes no other."""
    found, _ = read_key_set(
        key_set(public(rsa(), "any"), public(rsa(), "one", alg="PS256"), public(ec(), "ec")), ALGORITHMS
    )
    taken = {
        kid: [name for name in (*ALGORITHMS, "none", "HS256", "RS512") if key.takes(name)] for kid, key in found.items()
    }
    assert taken == {"any": ["RS256", "PS256"], "one": ["PS256"], "ec": ["ES256"]}


async def test_the_discovery_document_leads_to_the_keys(issuer: TestIssuer) -> None:
    """That of OpenID Connect."""
    assert await Issuer(a_settings(issuer)).read() == key_set(*issuer.keys)
    assert issuer.asked == [OPENID, KEY_SET]


@pytest.mark.parametrize("path", ["", "/realms/x", "/realms/x/"])
async def test_issuers_with_a_path(issuer: TestIssuer, path: str) -> None:
    """OpenID Connect puts its place after the path, OAuth before (RFC 8414, 3.1)."""
    document = msgspec.json.encode({"issuer": issuer.url + path, "jwks_uri": issuer.url + KEY_SET, "x": [1]})
    settings = a_settings(issuer, token_issuer=issuer.url + path)
    for place in (path.rstrip("/") + OPENID, OAUTH + path.rstrip("/")):
        issuer.answers = {OPENID: (404, b""), place: (200, document)}
        issuer.asked.clear()
        await Issuer(settings).read()
        assert issuer.asked[-2:] == [place, KEY_SET]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"issuer": "https://other.example", "jwks_uri": "URL/keys"}, "another issuer"),
        ({"issuer": "URL/", "jwks_uri": "URL/keys"}, "another issuer"),
        ({"jwks_uri": "URL/keys"}, "no discovery document"),
        ({"issuer": "URL"}, "no discovery document"),
        ({"issuer": "URL", "jwks_uri": "http://keys.example/keys"}, "no https URL"),
        ({"issuer": "URL", "jwks_uri": "file:///etc/passwd"}, "no https URL"),
        ({"issuer": "URL", "jwks_uri": "http://127.0.0.1@keys.example/"}, "no https URL"),
        ({"issuer": "URL", "jwks_uri": "https://keys.example/\r\nHost: x"}, "no https URL"),
        ([], "no discovery document"),
    ],
    ids=range(9),
)
async def test_discovery_documents_that_lead_nowhere(issuer: TestIssuer, document: Any, reason: str) -> None:
    """The keys must be those of the issuer that is configured, and nobody in between may change them."""
    text = json.dumps(document).replace("URL", issuer.url)
    issuer.answers[OPENID] = (200, text.encode())
    with pytest.raises(IssuerAway, match=reason):
        await Issuer(a_settings(issuer)).read()
    assert KEY_SET not in issuer.asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(issuer: TestIssuer, status: int) -> None:
    """Nobody but the issuer says where its keys are."""
    issuer.answers[KEY_SET] = (status, b"")
    issuer.headers["Location"] = "/elsewhere"
    with pytest.raises(IssuerAway, match=f"{status}.*{KEY_SET}"):
        await Issuer(a_settings(issuer)).read()
    assert "/elsewhere" not in issuer.asked


async def test_a_document_has_a_bound(issuer: TestIssuer, tmp_path: Path) -> None:
    """From the network as from a file."""
    issuer.answers[KEY_SET] = (200, b" " * (MAX_BYTES + 1))
    with pytest.raises(IssuerAway, match="more than 262144 bytes"):
        await Issuer(a_settings(issuer)).read()
    file = tmp_path / "keys.json"
    file.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(IssuerAway, match="more than 262144 bytes"):
        await Issuer(a_settings(issuer, token_jwks=str(file))).read()


async def test_keys_at_a_url_or_in_a_file(issuer: TestIssuer, tmp_path: Path) -> None:
    """Then nothing else is asked for."""
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(*issuer.keys))
    for place in (str(file), issuer.url + KEY_SET):
        assert await Issuer(a_settings(issuer, token_issuer="us", token_jwks=place)).read() == key_set(*issuer.keys)
    assert issuer.asked == [KEY_SET]
    file.unlink()
    with pytest.raises(IssuerAway, match="FileNotFoundError"):
        await Issuer(a_settings(issuer, token_jwks=str(file))).read()


async def test_nobody_listens(issuer: TestIssuer) -> None:
    """It is told as what it is."""
    issuer.close()
    with pytest.raises(IssuerAway, match="refused"):
        await Issuer(a_settings(issuer)).read()


async def test_what_is_no_http(tmp_path: Path) -> None:
    """Whatever answers there."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        place = f"http://127.0.0.1:{server.getsockname()[1]}/keys"
        with pytest.raises(IssuerAway, match="BadStatusLine"):
            await Issuer(Settings(token_issuer="us", token_jwks=place)).read()
        thread.join()


async def test_an_answer_that_trickles_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while its headers come: the thread is not held by a byte now and then."""
    monkeypatch.setattr(issuer_module, "_SECONDS", 0.2)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer, suppress(OSError):
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                for _ in range(1000):
                    peer.sendall(b"a")
                    if over.wait(0.02):
                        break

        thread = threading.Thread(target=answer)
        thread.start()
        source = Issuer(Settings(token_issuer="us", token_jwks=f"http://127.0.0.1:{server.getsockname()[1]}/keys"))
        with pytest.raises(IssuerAway, match="did not arrive within"):
            await source.read()
        over.set()
        thread.join()
    assert not source.busy


async def test_a_certificate_that_nobody_vouches_for(issuer: TestIssuer) -> None:
    """https means verified: what does not speak TLS as it should is not asked for keys."""
    with pytest.raises(IssuerAway, match="SSL"):
        await Issuer(a_settings(issuer, token_jwks=issuer.url.replace("http:", "https:") + KEY_SET)).read()
    assert issuer.asked == []
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


async def test_a_proxy_is_not_used_on_loopback(issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """http is for loopback alone, where a proxy has no business."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    await Issuer(a_settings(issuer)).read()


async def test_one_request_at_a_time(issuer: TestIssuer) -> None:
    """Also where nobody waits for the first any more: threads do not pile up."""
    source = Issuer(a_settings(issuer))
    issuer.held.clear()
    first = asyncio.create_task(source.read())
    await until(lambda: issuer.asked == [OPENID])
    first.cancel()
    await asyncio.wait((first,))
    with pytest.raises(IssuerAway, match="not over"):
        await source.read()
    issuer.held.set()
    await until(lambda: not source.busy)
    await source.read()


async def test_the_first_token_waits_for_the_first_look(issuer: TestIssuer, keys: IssuerKeys, health: Health) -> None:
    """All of the first ones, for one look."""
    found = await asyncio.gather(*(keys.find("k1") for _ in range(50)))
    assert all(found)
    assert issuer.looks == 1
    assert health.checks["issuer"].state is State.OK


async def test_a_new_key_is_found_at_once(issuer: TestIssuer, keys: IssuerKeys) -> None:
    """By whoever comes first with it; the others wait for the same look."""
    await keys.find("k1")
    issuer.keys.append(public(rsa(1), "k2"))
    assert all(await asyncio.gather(*(keys.find("k2") for _ in range(50))))
    assert issuer.looks == 2


async def test_a_flood_of_unknown_keys_costs_one_look_in_a_while(
    issuer: TestIssuer, keys: IssuerKeys, time: Time
) -> None:
    """However many there are, one after another or at once."""
    for _ in range(200):
        assert await keys.find(os.urandom(8).hex()) is None
    await asyncio.gather(*(keys.find(str(number)) for number in range(200)))
    assert issuer.looks == 2  # the one at the beginning, and one for the flood
    time.now += 9
    assert await keys.find("x") is None
    assert issuer.looks == 2
    time.now += 1
    await asyncio.gather(*(keys.find(str(number)) for number in range(200)))
    assert issuer.looks == 3
    assert await keys.find("k1") is not None


async def test_who_asks_during_a_look_gets_what_is_newer(issuer: TestIssuer, keys: IssuerKeys, time: Time) -> None:
    """A look that began before a key was published does not decide about it."""
    await keys.find("k1")
    issuer.held.clear()
    asking = asyncio.create_task(keys.find("x"))
    await until(lambda: issuer.asked[2:] == [OPENID])
    late = asyncio.create_task(keys.find("k2"))
    time.now += 10
    issuer.answers[KEY_SET] = issuer._usual(KEY_SET)  # without k2

    def publish() -> None:
        issuer.answers.clear()
        issuer.keys.append(public(rsa(1), "k2"))

    issuer.on_keys_sent = publish
    issuer.held.set()
    assert await asking is None
    assert await late is not None
    assert issuer.looks == 3


async def test_a_caller_that_leaves_takes_nobody_along(issuer: TestIssuer, keys: IssuerKeys) -> None:
    """The others still get their answer."""
    await keys.find("k1")
    issuer.keys.append(public(rsa(1), "k2"))
    issuer.held.clear()
    one, other = asyncio.create_task(keys.find("k2")), asyncio.create_task(keys.find("k2"))
    await until(lambda: len(issuer.asked) == 3)
    one.cancel()
    await asyncio.wait((one,))
    issuer.held.set()
    assert await other is not None


async def test_a_withdrawn_key_is_told(issuer: TestIssuer, health: Health, time: Time) -> None:
    """Also one that was replaced under its name; those that stay are not."""
    issuer.keys.append(public(ec(), "stays"))
    told: list[str] = []
    async with keys_of(issuer, health, time, refresh=0.01) as keys:
        keys.on_withdrawn(told.append)
        await keys.find("k1")
        issuer.keys = [public(rsa(1), "k1"), public(ec(), "stays"), public(okp(), "new")]
        await until(lambda: told == ["k1"])
        issuer.keys = issuer.keys[1:]
        await until(lambda: told == ["k1", "k1"])
        assert await keys.find("k1") is None
        assert await keys.find("stays") is not None


async def test_an_issuer_that_is_away_at_the_start(issuer: TestIssuer, health: Health, time: Time) -> None:
    """Holds nothing up; tokens can't be judged until it is back, and it is looked for without being asked."""
    issuer.away()
    async with keys_of(issuer, health, time, refresh=0.01) as keys:
        with pytest.raises(Unavailable) as refused:
            await keys.find("k1")
        assert refused.value.retry_after == 10
        assert health.checks["issuer"].state is State.DEGRADED
        assert health.ready
        issuer.back()
        await until(lambda: health.checks["issuer"].state is State.OK)
        assert await keys.find("k1") is not None


async def test_keys_count_for_a_while_without_their_issuer(issuer: TestIssuer, health: Health, time: Time) -> None:
    """And then no more, which ends what rests on them; a broken document is no better than none."""
    told: list[str] = []
    async with keys_of(issuer, health, time, refresh=0.01) as keys:
        keys.on_withdrawn(told.append)
        await keys.find("k1")
        issuer.answers[KEY_SET] = (200, b'{"keys": []}')
        await until(lambda: health.checks["issuer"].state is State.DEGRADED)
        time.now += 600
        looks = issuer.looks
        await until(lambda: issuer.looks > looks + 1)
        assert await keys.find("k1") is not None
        with pytest.raises(Unavailable):
            await keys.find("unknown")
        assert told == []
        issuer.away()
        time.now += 1
        await until(lambda: told == ["k1"])
        with pytest.raises(Unavailable):
            await keys.find("k1")
        issuer.back()
        await until(lambda: health.checks["issuer"].state is State.OK)
        assert await keys.find("k1") is not None


async def test_an_outage_is_told_once(
    issuer: TestIssuer, health: Health, time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often it is looked at, and so are keys that do not count."""
    issuer.keys.append(public(rsa(), "x", use="enc"))
    async with keys_of(issuer, health, time, refresh=0.001) as keys:
        await keys.find("k1")
        await until(lambda: issuer.looks > 5)
        issuer.away()
        looks = len(issuer.asked)
        await until(lambda: len(issuer.asked) > looks + 10)
        issuer.back()
        await until(lambda: health.checks["issuer"].state is State.OK)
    text = capsys.readouterr().out
    assert text.count("part is not well") == 1
    assert text.count("part is well") == 1
    assert text.count("does not count") == 1


async def test_leaving_does_not_wait_for_the_issuer(issuer: TestIssuer, health: Health, time: Time) -> None:
    """Whoever waits for a key is let go with the request."""
    issuer.held.clear()
    async with keys_of(issuer, health, time) as keys:
        asking = asyncio.create_task(keys.find("k1"))
        await until(lambda: issuer.asked == [OPENID])
    with pytest.raises(Unavailable):
        await asking
    issuer.held.set()


async def test_unknown_is_unauthenticated_and_unknowable_is_unavailable(issuer: TestIssuer, health: Health) -> None:
    """The one has no use in trying again, the other has."""
    settings = a_settings(issuer)
    async with AccessTokens.of(settings, health) as tokens:
        with pytest.raises(Unauthenticated):
            await tokens.verify(issuer.token(kid="x"))
    issuer.away()
    async with AccessTokens.of(settings, health) as tokens:
        with pytest.raises(Unavailable):
            await tokens.verify(issuer.token())
        with pytest.raises(Unauthenticated):
            await tokens.verify(issuer.token(typ="JWT"))
