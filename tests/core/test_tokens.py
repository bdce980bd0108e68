"""Which access tokens count, and every way in which others do not."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from joserfc import jwe
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry

from core.errors import Unauthenticated
from core.health import Health
from core.settings import Settings, problems_of
from core.tokens import AccessTokens
from tests.core.issuing import AUDIENCE, TestIssuer, ec, okp, public, rsa, signed

HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}


def a_settings(issuer: TestIssuer, **changes: Any) -> Settings:
    return Settings(auth="required", policy="p.toml", token_issuer=issuer.url, token_audience=AUDIENCE, **changes)


@pytest.fixture
async def tokens(issuer: TestIssuer, health: Health) -> AsyncIterator[AccessTokens]:
    async with AccessTokens.of(a_settings(issuer), health) as tokens:
        yield tokens


@pytest.fixture
async def lenient(issuer: TestIssuer, health: Health) -> AsyncIterator[AccessTokens]:
    """Takes tokens of issuers that can't say at+jwt."""
    async with AccessTokens.of(a_settings(issuer, token_type="jwt"), health) as tokens:
        yield tokens


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def with_header(issuer: TestIssuer, **changes: Any) -> str:
    header = {name: value for name, value in {**HEADER, **changes}.items() if value is not None}
    return signed(header, msgspec.json.encode(issuer.claims()), rsa())


def with_payload(payload: bytes) -> str:
    return signed(HEADER, payload, rsa())


def with_claim(issuer: TestIssuer, text: str) -> str:
    """Claims with JSON that no encoder writes."""
    return with_payload(json.dumps(issuer.claims()).encode()[:-1] + b", " + text.encode() + b"}")


def replaced(issuer: TestIssuer, name: str, text: str) -> str:
    """Claims with one value as it stands."""
    claims = json.dumps(issuer.claims(**{name: "@"}))
    return with_payload(claims.replace('"@"', text).encode())


def part(token: str, number: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[number] = change(parts[number])
    return ".".join(parts)


def headed(issuer: TestIssuer, header: bytes) -> str:
    """A good token under a header that its signature is not for."""
    return part(issuer.token(), 0, lambda _: encoded(header))


def headed_with(issuer: TestIssuer, **changes: Any) -> str:
    return headed(issuer, json.dumps({**HEADER, **changes}).encode())


def signed_with(issuer: TestIssuer, change: Callable[[str], str]) -> str:
    return part(issuer.token(), 2, change)


def by_ec(issuer: TestIssuer, signature: bytes) -> str:
    return part(issuer.token(ec(), kid="e1", alg="ES256"), 2, lambda _: encoded(signature))


def as_json(issuer: TestIssuer) -> str:
    return json.dumps(dict(zip(("protected", "payload", "signature"), issuer.token().split("."), strict=True)))


def flipped(text: str) -> str:
    """One bit of the first byte."""
    raw = base64.urlsafe_b64decode(text + "==")
    return encoded(bytes([raw[0] ^ 1]) + raw[1:])


def as_hmac(issuer: TestIssuer, secret: bytes) -> str:
    """The classic: the public key, which everybody knows, as the secret of an HMAC."""
    claims = msgspec.json.encode(issuer.claims())
    return signed({**HEADER, "alg": "HS256"}, claims, OctKey.import_key(encoded(secret), {"use": "sig"}))


def of_a_thief(issuer: TestIssuer, **header: Any) -> str:
    """Signed with a key that the header itself brings along."""
    return signed({**HEADER, **header}, msgspec.json.encode(issuer.claims()), rsa(9))


def encrypted(issuer: TestIssuer) -> str:
    header = {"alg": "RSA-OAEP-256", "enc": "A128GCM", "typ": "at+jwt", "kid": "k1"}
    return jwe.encrypt_compact(header, issuer.token().encode(), rsa(), algorithms=["RSA-OAEP-256", "A128GCM"])


ATTACKS: dict[str, tuple[Callable[[TestIssuer], str], str]] = {
    # signatures
    "alg none": (lambda i: headed_with(i, alg="none").rpartition(".")[0] + ".", "algorithm"),
    "alg none with a signature": (lambda i: headed_with(i, alg="none"), "algorithm"),
    "alg None": (lambda i: headed_with(i, alg="None"), "algorithm"),
    "no alg": (lambda i: headed(i, b'{"typ":"at+jwt","kid":"k1"}'), "no signed JWT"),
    "alg is a list": (lambda i: headed(i, b'{"alg":["RS256"],"typ":"at+jwt","kid":"k1"}'), "algorithm"),
    "HMAC with the public PEM": (lambda i: as_hmac(i, rsa().as_pem()), "algorithm"),
    "HMAC with the public DER": (lambda i: as_hmac(i, rsa().as_der()), "algorithm"),
    "HMAC with the modulus": (lambda i: as_hmac(i, str(rsa().as_dict()["n"]).encode()), "algorithm"),
    "an algorithm that is not configured": (lambda i: i.token(alg="RS512"), "algorithm"),
    "an algorithm that the key is not for": (lambda i: i.token(alg="PS256"), "algorithm"),
    "an algorithm of another kind of key": (lambda i: i.token(ec(), alg="ES256"), "algorithm"),
    "another key under the same kid": (lambda i: i.token(rsa(9)), "not signed"),
    "tampered header": (lambda i: headed_with(i, cty="x"), "not signed"),
    "tampered payload": (lambda i: part(i.token(), 1, lambda _: i.token(scope="admin").split(".")[1]), "not signed"),
    "tampered signature": (lambda i: signed_with(i, flipped), "not signed"),
    "no signature": (lambda i: signed_with(i, lambda _: ""), "not signed"),
    "the signature of another token": (
        lambda i: signed_with(i, lambda _: i.token(jti="2").split(".")[2]),
        "not signed",
    ),
    "a signature that is cut": (lambda i: signed_with(i, lambda text: text[:-4]), "not signed"),
    "a signature that is longer than any": (lambda i: signed_with(i, lambda text: text * 5), "no signed JWT"),
    "an ECDSA signature of zeros": (lambda i: by_ec(i, bytes(64)), "not signed"),
    "an ECDSA signature in DER": (lambda i: by_ec(i, b"0" * 71), "not signed"),
    # keys
    "no kid": (lambda i: i.token(kid=None), "which key"),
    "an unknown kid": (lambda i: i.token(kid="k9"), "does not have"),
    "kid is a list": (lambda i: with_header(i, kid=["k1"]), "which key"),
    "kid is a number": (lambda i: with_header(i, kid=1), "which key"),
    "kid is a path": (lambda i: with_header(i, kid="../../../../dev/null"), "does not have"),
    "kid is SQL": (lambda i: with_header(i, kid="x' UNION SELECT 'k1"), "does not have"),
    "jwk in the header": (lambda i: of_a_thief(i, jwk=public(rsa(9), "k1")), "not signed"),
    "jwk in the header, no kid": (lambda i: of_a_thief(i, jwk=public(rsa(9), "k1"), kid=7), "which key"),
    "jku": (lambda i: of_a_thief(i, jku=f"{i.url}/thief"), "not signed"),
    "jku with a kid of its own": (lambda i: of_a_thief(i, jku=f"{i.url}/thief", kid="thief"), "does not have"),
    "x5u": (lambda i: of_a_thief(i, x5u=f"{i.url}/thief"), "not signed"),
    "x5c": (lambda i: of_a_thief(i, x5c=["MIIB"]), "not signed"),
    # the form
    "crit": (lambda i: with_header(i, crit=["exp"]), "extension"),
    "crit that is known to the library": (lambda i: with_header(i, crit=["b64"], b64=True), "extension"),
    "crit that is empty": (lambda i: with_header(i, crit=[]), "extension"),
    "b64 without crit": (lambda i: with_header(i, b64=True), "extension"),
    "an encrypted token": (encrypted, "no signed JWT"),
    "a nested token": (lambda i: signed({**HEADER, "cty": "JWT"}, i.token().encode(), rsa()), "claims"),
    "typ JWT": (lambda i: i.token(typ="JWT"), "type"),
    "no typ": (lambda i: i.token(typ=None), "type"),
    "typ of a logout token": (lambda i: i.token(typ="logout+jwt"), "type"),
    "typ is a list": (lambda i: i.token(typ=["at+jwt"]), "type"),
    "two parts": (lambda i: i.token().rpartition(".")[0], "no signed JWT"),
    "four parts": (lambda i: i.token() + ".x", "no signed JWT"),
    "JSON serialization": (as_json, "no signed JWT"),
    "padding in base64": (lambda i: part(i.token(), 0, lambda text: text + "="), "no signed JWT"),
    "standard base64": (lambda i: part(i.token(), 1, lambda text: text[:-1] + "+"), "no signed JWT"),
    "a space in base64": (lambda i: part(i.token(), 1, lambda text: text[:4] + " " + text[4:]), "no signed JWT"),
    "a line end in the signature": (lambda i: i.token() + "\n", "not signed"),
    "base64 with spare bits": (lambda i: signed_with(i, lambda text: text[:-1] + chr(ord(text[-1]) + 1)), "not signed"),
    "not ASCII": (lambda i: part(i.token(), 0, lambda text: text + "é"), "no signed JWT"),
    "full-width letters": (lambda i: i.token().replace("e", "\uff45", 1), "no signed JWT"),
    "a lone surrogate": (lambda i: i.token() + "\ud800", "no signed JWT"),
    "a header that is a list": (lambda i: headed(i, b'["alg"]'), "no signed JWT"),
    "a header that is a text": (lambda i: headed(i, b'"alg b64"'), "no signed JWT"),
    "a header that is nested": (lambda i: headed(i, b'{"alg":' + b"[" * 5000), "no signed JWT"),
    "a header that is not UTF-8": (lambda i: headed(i, b'{"alg":"\xff"}'), "no signed JWT"),
    "too long": (lambda i: i.token(padding="x" * 16_000), "too long"),
    "empty": (lambda i: "", "no signed JWT"),
    "dots": (lambda i: "..", "no signed JWT"),
    # claims
    "another issuer": (lambda i: i.token(iss="https://evil.example"), "another issuer"),
    "an issuer with a slash more": (lambda i: i.token(iss=i.url + "/"), "another issuer"),
    "an issuer in capitals": (lambda i: i.token(iss=i.url.upper()), "another issuer"),
    "no issuer": (lambda i: i.token(iss=None), "claims"),
    "issuers": (lambda i: i.token(iss=[i.url]), "claims"),
    "another audience": (lambda i: i.token(aud="https://other.example"), "another audience"),
    "other audiences": (lambda i: i.token(aud=["https://other.example", AUDIENCE + "/"]), "another audience"),
    "part of the audience": (lambda i: i.token(aud="https://trivium.example.evil"), "another audience"),
    "no audiences": (lambda i: i.token(aud=[]), "another audience"),
    "no audience": (lambda i: i.token(aud=None), "claims"),
    "an audience that is an object": (lambda i: i.token(aud={AUDIENCE: 1}), "claims"),
    "an audience among others that are none": (lambda i: i.token(aud=[AUDIENCE, 1]), "claims"),
    "expired": (lambda i: i.token(exp=int(time.time()) - 31), "expired"),
    "no exp": (lambda i: i.token(exp=None), "claims"),
    "exp is null": (lambda i: replaced(i, "exp", "null"), "claims"),
    "exp is true": (lambda i: replaced(i, "exp", "true"), "claims"),
    "exp is a text": (lambda i: i.token(exp="9999999999"), "claims"),
    "exp is NaN": (lambda i: replaced(i, "exp", "NaN"), "claims"),
    "exp is Infinity": (lambda i: replaced(i, "exp", "Infinity"), "claims"),
    "exp beyond a float": (lambda i: replaced(i, "exp", "1e999"), "time"),
    "exp far beyond a float": (lambda i: replaced(i, "exp", "1" + "0" * 400), "claims"),
    "exp of more digits than Python reads": (lambda i: replaced(i, "exp", "9" * 5000), "claims"),
    "exp beyond all calendars": (lambda i: i.token(exp=10**15), "time"),
    "exp is negative": (lambda i: i.token(exp=-1), "time"),
    "nbf is in the future": (lambda i: i.token(nbf=int(time.time()) + 120), "not valid yet"),
    "nbf is a text": (lambda i: i.token(nbf="0"), "claims"),
    "iat is in the future": (lambda i: i.token(iat=int(time.time()) + 120), "not valid yet"),
    "iat is a list": (lambda i: i.token(iat=[0]), "claims"),
    "a claim stands twice": (lambda i: with_claim(i, '"sub": "admin"'), "claims"),
    "an inner name stands twice": (lambda i: with_claim(i, '"x": {"a": 1, "a": 2}'), "claims"),
    "claims in an escaped name": (lambda i: with_claim(i, '"\\u0073ub": "admin"'), "claims"),
    "claims are a list": (lambda i: with_payload(b"[]"), "claims"),
    "claims are a text": (lambda i: with_payload(b'"x"'), "claims"),
    "claims are no JSON": (lambda i: with_payload(b"{"), "claims"),
    "claims are nothing": (lambda i: with_payload(b""), "claims"),
    "claims are not UTF-8": (lambda i: with_payload(b'{"iss":"\xff"}'), "claims"),
    "claims in UTF-16": (lambda i: with_payload(json.dumps(i.claims()).encode("utf-16")), "claims"),
    "claims are nested": (lambda i: with_payload(b'{"iss":' + b"[" * 5000 + b"]" * 5000 + b"}"), "claims"),
    "no subject": (lambda i: i.token(sub=None, client_id=None), "subject"),
    "an empty subject": (lambda i: i.token(sub=""), "subject"),
    "a long subject": (lambda i: i.token(sub="s" * 256), "subject"),
    "a subject that writes log lines": (lambda i: i.token(sub="shop\n2026 admin"), "subject"),
    "a subject that paints the terminal": (lambda i: i.token(sub="\x1b[31mshop"), "subject"),
    "a subject that turns letters around": (lambda i: i.token(sub="shop\u202enimda"), "subject"),
    "a subject that is half a letter": (lambda i: replaced(i, "sub", '"\\ud800"'), "subject"),
    "a subject that is a number": (lambda i: i.token(sub=1), "claims"),
    "scopes that are an object": (lambda i: i.token(scope={"admin": True}), "claims"),
    "too many scopes": (lambda i: i.token(scope=" ".join(map(str, range(101)))), "scopes"),
    "a token bound to a key": (lambda i: i.token(cnf={"jkt": "x"}), "bound"),
    "an ID token": (lambda i: i.token(nonce="n"), "ID token"),
    "a refresh token of Keycloak": (lambda i: i.token(typ="at+jwt", at_hash="x"), "ID token"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_refuses(name: str, issuer: TestIssuer, tokens: AccessTokens) -> None:
    """Each as unauthenticated, with a reason that has nothing of the token in it."""
    issuer.keys.append(public(ec(), "e1"))
    issuer.answers["/thief"] = (200, msgspec.json.encode({"keys": [public(rsa(9), "thief"), public(rsa(9), "k1")]}))
    make, reason = ATTACKS[name]
    token = make(issuer)
    with pytest.raises(Unauthenticated, match=reason) as refused:
        await tokens.verify(token)
    assert refused.value.field == "credential"
    assert len(str(refused.value)) < 150
    assert not any(piece and piece in str(refused.value) for piece in token.split("."))
    assert "/thief" not in issuer.asked
    assert (await tokens.verify(issuer.token())).name == "shop"


async def test_a_good_token_says_who_and_what(issuer: TestIssuer, tokens: AccessTokens) -> None:
    """It ends when it could not be proved again: past its time and the leeway."""
    found = await tokens.verify(issuer.token(exp=2_000_000_000))
    assert (found.name, found.anchor) == ("shop", "kid:k1")
    assert found.scopes == ("orders:read", "orders:write")
    assert found.expires == 2_000_000_030


@pytest.mark.parametrize(
    ("key", "alg", "members"),
    [
        (rsa(), "PS256", {}),
        (rsa(), "RS256", {}),
        (ec(), "ES256", {"use": "sig"}),
        (okp(), "EdDSA", {"alg": "EdDSA"}),
        (okp(), "Ed25519", {"key_ops": ["verify"]}),
    ],
    ids=["PS256", "RS256", "ES256", "EdDSA", "Ed25519"],
)
async def test_signatures_that_count(
    key: Any, alg: str, members: dict[str, Any], issuer: TestIssuer, tokens: AccessTokens
) -> None:
    """Those of the settings, with keys that say nothing else."""
    issuer.keys = [public(key, "k", **members)]
    assert (await tokens.verify(issuer.token(key, kid="k", alg=alg))).name == "shop"


@pytest.mark.parametrize(
    ("changes", "name", "scopes"),
    [
        ({"aud": [AUDIENCE, "https://other.example"]}, "shop", ("orders:read", "orders:write")),
        ({"sub": None}, "shop-client", ("orders:read", "orders:write")),
        ({"sub": None, "client_id": None, "azp": "a"}, "a", ("orders:read", "orders:write")),
        ({"sub": "auth0|Jürgen Müller"}, "auth0|Jürgen Müller", ("orders:read", "orders:write")),
        ({"scope": None}, "shop", ()),
        ({"scope": ""}, "shop", ()),
        ({"scope": None, "scp": "a  b a"}, "shop", ("a", "b")),
        ({"scope": None, "scp": ["a", "b c"]}, "shop", ("a", "b c")),
        ({"scope": "a", "scp": ["b"]}, "shop", ("a",)),
        ({"nbf": 0, "iat": 0.5}, "shop", ("orders:read", "orders:write")),
        ({"iat": None, "jti": None}, "shop", ("orders:read", "orders:write")),
        ({"typ": "application/at+JWT"}, "shop", ("orders:read", "orders:write")),
        ({"realm_access": {"roles": ["x"]}, "cnf": None}, "shop", ("orders:read", "orders:write")),
    ],
    ids=str,
)
async def test_what_issuers_write(
    changes: dict[str, Any], name: str, scopes: tuple[str, ...], issuer: TestIssuer, tokens: AccessTokens
) -> None:
    """Several of them, in several ways."""
    found = await tokens.verify(issuer.token(**changes))
    assert (found.name, found.scopes) == (name, scopes)


async def test_what_a_header_brings_along_is_ignored(issuer: TestIssuer, tokens: AccessTokens) -> None:
    """Where the signature is right, the rest does no harm: Entra sends `x5t`, others whole chains."""
    token = with_header(issuer, x5t="abc", x5c=["MII" + "A" * 3000], jku="https://evil.example", ver=2)
    assert (await tokens.verify(token)).name == "shop"


async def test_clocks_may_be_off_by_the_leeway(issuer: TestIssuer, health: Health) -> None:
    """On both sides, and not by more."""
    now = 1_800_000_000.0
    tokens = AccessTokens.of(a_settings(issuer, token_leeway_seconds=10), health)
    tokens._now = lambda: now
    usual: dict[str, Any] = {"exp": now + 1, "iat": now}
    async with tokens:
        for good in ({"exp": now - 9}, {"exp": now - 9.5}, {"nbf": now + 10, "iat": now}, {"iat": now + 10}):
            await tokens.verify(issuer.token(**usual | good))
        for bad in ({"exp": now - 10}, {"nbf": now + 11}, {"iat": now + 11}):
            with pytest.raises(Unauthenticated):
                await tokens.verify(issuer.token(**usual | bad))


async def test_issuers_that_can_not_say_at_jwt(issuer: TestIssuer, lenient: AccessTokens) -> None:
    """Are taken where the settings say so; what shows itself as another kind of token is not."""
    for kind in ("JWT", "jwt", None, "at+jwt"):
        assert (await lenient.verify(issuer.token(typ=kind))).name == "shop"
    good = with_payload(msgspec.json.encode({**issuer.claims(), "typ": "Bearer"}))  # as Keycloak has it
    await lenient.verify(good)
    refused = [with_payload(msgspec.json.encode({**issuer.claims(), "typ": kind})) for kind in ("ID", "Refresh", 1)]
    refused += [issuer.token(typ="logout+jwt"), issuer.token(typ="JWT", nonce="n"), issuer.token(typ="JWT", at_hash="")]
    for token in refused:
        with pytest.raises(Unauthenticated):
            await lenient.verify(token)


TEXTS = st.text() | st.from_regex(r"[A-Za-z0-9_.=-]*", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jku", "x5u", "jwk", "x5c", "x5t", "cty", "zip", "enc"]),
    st.sampled_from(["RS256", "none", "at+jwt", "k1", "JWT", True, False]) | JSON,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "client_id", "azp", "scope", "scp", "cnf", "typ"]), JSON
)
_fuzz = given_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def _is_refused(tokens: AccessTokens, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify(token)


@given(token=TEXTS)
@_fuzz
async def test_any_text_is_refused(token: str, tokens: AccessTokens) -> None:
    """With that error and no other."""
    await _is_refused(tokens, token)


@given(header=HEADERS | JSON, payload=CLAIMS | JSON, signature=st.binary(max_size=300))
@_fuzz
async def test_any_json_is_refused(header: Any, payload: Any, signature: bytes, tokens: AccessTokens) -> None:
    """Whatever is in the three parts."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    await _is_refused(tokens, ".".join(map(encoded, parts)))


@given(header=HEADERS)
@_fuzz
async def test_a_good_signature_over_any_header(
    header: dict[str, Any], issuer: TestIssuer, tokens: AccessTokens
) -> None:
    """Opens nothing, unless the header is a good one as well."""
    payload = msgspec.json.encode(issuer.claims())
    text = json.dumps(header, separators=(",", ":")).encode()
    signing = f"{encoded(text)}.{encoded(payload)}"
    signature = JWSRegistry.algorithms["RS256"].sign(signing.encode(), rsa())
    try:
        await tokens.verify(f"{signing}.{encoded(signature)}")
    except Unauthenticated:
        return
    assert (header["alg"], header["typ"], header["kid"]) == ("RS256", "at+jwt", "k1")
    assert "crit" not in header


@given(payload=CLAIMS | JSON | st.binary())
@_fuzz
async def test_a_good_signature_over_any_claims(payload: Any, tokens: AccessTokens) -> None:
    """Opens nothing: our issuer and our audience are not among them."""
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    await _is_refused(tokens, with_payload(text))


@pytest.mark.parametrize("names", ["none", "HS256", "RS256,HS512", "", "RS256,", "rs256", "ES256K", "RSA1_5", "A128KW"])
def test_algorithms_that_can_not_be_configured(names: str) -> None:
    """A token that anybody could have made is none, with whatever settings."""
    (problem,) = problems_of(Settings(token_algorithms=names))
    assert problem.startswith("--token-algorithms: ")
    assert "none of RS256" in problem


async def test_even_unchecked_settings_let_no_hmac_in(issuer: TestIssuer, health: Health) -> None:
    """There is no key for it, also where the issuer publishes one."""
    secret = OctKey.import_key(encoded(b"s" * 32))
    issuer.keys.append({"kty": "oct", "k": encoded(b"s" * 32), "kid": "h1"})
    async with AccessTokens.of(a_settings(issuer, token_algorithms="HS256,none,RS256"), health) as tokens:
        await tokens.verify(issuer.token())
        await _is_refused(tokens, issuer.token(secret, kid="h1", alg="HS256"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token_issuer": "https://i.example"}, "needs --token-audience"),
        ({"token_audience": "a"}, "need --token-issuer"),
        ({"token_jwks": "https://i.example/keys"}, "need --token-issuer"),
        ({"token_issuer": "https://i.example", "token_audience": "a", "auth": "none"}, "needs --auth required"),
        ({"token_issuer": "http://i.example", "token_audience": "a"}, "--token-issuer, where"),
        ({"token_issuer": "https://i.example?x=1", "token_audience": "a"}, "--token-issuer, where"),
        ({"token_issuer": "https://[", "token_audience": "a"}, "--token-issuer, where"),
        ({"token_issuer": "i", "token_audience": "a", "token_jwks": "http://i.example/keys"}, "--token-jwks must"),
        ({"token_issuer": "i", "token_audience": "a", "token_jwks": "ftp://i.example/keys"}, "--token-jwks must"),
        ({"token_issuer": "i", "token_audience": "a", "token_jwks": "/no/such/file"}, "no file /no/such/file"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], problem: str) -> None:
    """Each with the flag to change."""
    (found,) = problems_of(Settings(**{"auth": "required", "policy": "p.toml", **changes}))
    assert problem in found


def test_settings_that_do() -> None:
    """https, http on loopback, and any name of an issuer whose keys are given."""
    for issuer, jwks in (
        ("https://i.example/realms/x", ""),
        ("http://127.0.0.1:8081/realms/x", ""),
        ("http://keycloak/realms/x", "https://i.example/keys"),
        ("us", "http://localhost:1/keys"),
        ("us", __file__),
    ):
        one = Settings(auth="required", policy="p", token_issuer=issuer, token_audience="a", token_jwks=jwks)
        assert problems_of(one) == []
