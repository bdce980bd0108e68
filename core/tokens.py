"""Access tokens: JWTs of one issuer, judged as RFC 9068 and RFC 8725 say."""

import json
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

import msgspec
from joserfc.errors import JoseError
from joserfc.jws import CompactSignature, JWSRegistry, extract_compact
from msgspec import Struct

from core.errors import Unauthenticated
from core.health import Health
from core.issuer import Issuer
from core.jwks import IssuerKeys
from core.policy import Identity
from core.settings import Settings

#: What the doors take as well; with many claims it is some KiB.
_LONGEST = 16 * 1024
#: OpenID Connect Core, section 2: a subject has at most 255 characters.
_LONGEST_NAME = 255
#: The year 9999. No number of a token is larger, and none of them needs care as a float.
_LAST_SECOND = 253_402_300_799
_MOST_SCOPES = 100
_OWN_TYPES = ("at+jwt", "application/at+jwt")


class _Shape(JWSRegistry):
    """How large the parts of a token may be. A header can bring certificates along, which count for nothing."""

    max_header_length = 8 * 1024
    max_payload_length = _LONGEST
    max_signature_length = 1400  # of 8,192 bits


class Claims(Struct):
    """What counts of a token's content."""

    iss: str
    aud: str | list[str]
    exp: float
    nbf: float | None = None
    iat: float | None = None
    sub: str | None = None
    client_id: str | None = None
    azp: str | None = None
    scope: str | list[str] | None = None
    scp: str | list[str] | None = None
    cnf: object = None
    typ: object = None
    nonce: object = None
    at_hash: object = None


class AccessTokens:
    """A `TokenVerifier` for the tokens of one issuer that are meant for us. Usable while it is entered.

    Judging one takes 34 to 84 us by its algorithm, of which handing it to a thread would cost half; the gate asks once.
    """

    def __init__(self, keys: IssuerKeys, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._any_type = settings.token_type == "jwt"  # noqa: S105
        self._leeway = settings.token_leeway_seconds
        self._now = now
        self._shape = _Shape()

    @classmethod
    def of(cls, settings: Settings, health: Health) -> Self:
        """With the keys that the settings lead to."""
        keys = IssuerKeys(
            Issuer(settings),
            settings.algorithms,
            health,
            refresh_seconds=settings.token_refresh_seconds,
            stale_seconds=settings.token_stale_seconds,
        )
        return cls(keys, settings)

    async def __aenter__(self) -> Self:
        await self._keys.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._keys.__aexit__(kind, error, trace)

    async def wait(self) -> None:
        await self._keys.wait()

    def on_withdrawn(self, listener: Callable[[str], None]) -> None:
        self._keys.on_withdrawn(lambda id_: listener(f"kid:{id_}"))

    async def verify(self, token: str) -> Identity:
        signature = self._taken_apart(token)
        id_ = self._judge_header(signature.protected)
        key = await self._keys.find(id_)
        if key is None:
            _refuse("is signed with a key that the issuer does not have")
        if not key.takes(signature.protected["alg"]):
            _refuse("has an algorithm that does not count with its key")
        if not key.signed(signature):
            _refuse("is not signed by the issuer")
        claims = _claims(signature.payload)
        self._judge_addressing(claims)
        self._judge_times(claims)
        return Identity(
            name=_name(claims),
            anchor=f"kid:{id_}",
            scopes=_scopes(claims),
            expires=claims.exp + self._leeway,  # or it would end, be proved, and end again within the leeway
        )

    def _taken_apart(self, token: str) -> CompactSignature:
        if len(token) > _LONGEST:
            _refuse("is too long")
        try:
            signature = extract_compact(token.encode("ascii"), registry=self._shape)
            if not isinstance(signature.protected, dict):
                raise TypeError
        except (JoseError, ValueError, TypeError, RecursionError):
            _refuse("is no signed JWT")
        return signature

    def _judge_header(self, header: dict[str, Any]) -> str:
        """The id of the key. `jku`, `x5u`, `jwk` and `x5c`, which bring keys along, are never looked at."""
        if "crit" in header or "b64" in header:
            _refuse("asks for an extension that is not known here")  # RFC 7515, 4.1.11; RFC 7797, 7
        kind = header.get("typ")
        kind = kind.lower() if isinstance(kind, str) else kind
        if kind not in _OWN_TYPES and not (self._any_type and kind in (None, "jwt")):
            _refuse("is not of the type at+jwt; --token-type says which are taken")
        id_ = header.get("kid")
        if not isinstance(id_, str):
            _refuse("does not say which key signed it")
        return id_

    def _judge_addressing(self, claims: Claims) -> None:
        if claims.iss != self._issuer:
            _refuse("is of another issuer")
        if self._audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
            _refuse("is for another audience")
        if claims.cnf is not None:  # RFC 7800: a thief of the token must not be able to use it, so we can't allow it
            _refuse("is bound to a key of its holder, and nobody showed that here")
        if claims.typ not in (None, "Bearer") or claims.nonce is not None or claims.at_hash is not None:
            _refuse("is an ID token or a refresh token")  # of issuers that don't say so in the header

    def _judge_times(self, claims: Claims) -> None:
        now = self._now()
        for seconds in (claims.exp, claims.nbf, claims.iat):
            if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= _LAST_SECOND):
                _refuse("has a time that is none")
        if now >= claims.exp + self._leeway:
            _refuse("has expired")
        if max(claims.nbf or 0, claims.iat or 0) > now + self._leeway:
            _refuse("is not valid yet")


def _refuse(reason: str) -> NoReturn:
    raise Unauthenticated(f"the access token {reason}", field="credential")


def _claims(payload: bytes) -> Claims:
    try:
        members = json.loads(payload.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        return msgspec.convert(members, Claims)
    except (ValueError, RecursionError, OverflowError):  # among them what is missing, and what is not UTF-8
        _refuse("has claims that are missing or no good")


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two values, the issuer may have meant the other one (RFC 7519, 4)."""
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _name(claims: Claims) -> str:
    """The subject; tokens of a client for itself may have none. It goes to logs."""
    name = next((one for one in (claims.sub, claims.client_id, claims.azp) if one is not None), "")
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        _refuse("does not name its subject as it should")
    return name


def _scopes(claims: Claims) -> tuple[str, ...]:
    """Of `scope` (RFC 9068, 2.2.3), or of `scp`, as Entra (a string) and Okta (a list) have it."""
    given = claims.scope if claims.scope is not None else claims.scp or ()
    scopes = tuple(dict.fromkeys(given.split() if isinstance(given, str) else given))
    if len(scopes) > _MOST_SCOPES:
        _refuse("has too many scopes")
    return scopes
