"""The keys that access tokens are signed with: read from a JWK Set (RFC 7517), kept, looked at again."""

import asyncio
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from joserfc.jws import CompactSignature, JWSRegistry, validate_compact
from msgspec import Struct

from core.errors import Unavailable
from core.health import Health, State
from core.issuer import IssuerAway, KeySource
from core.settings import TOKEN_ALGORITHMS

log = structlog.get_logger("trivium.tokens")

#: Between looks for keys that are not known, so that invented ones cost the issuer little; and after a failed look.
COOL_DOWN_SECONDS = 10.0
#: Issuers have two or three; those with many tenants some tens.
_MOST_KEYS = 100
#: NIST SP 800-131A and RFC 7518, 3.3; above it a signature costs the loop milliseconds.
_RSA_BITS = range(2048, 8192 + 1)
_LONGEST_ID = 255


class Jwk(Struct):
    """What counts of a JSON Web Key."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: tuple[str, ...] | None = None
    alg: str | None = None
    n: str | None = None
    e: str | None = None
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    d: object = None


class Unusable(Exception):
    """A key does not count, and why."""


class VerifyingKey(JWSRegistry):
    """A public key, and the algorithms that count with it.

    It is joserfc's registry, so that the algorithm of a header is looked up among those of the key: a signature can't
    choose another (RFC 8725, 3.1), and no key of another kind is ever tried.
    """

    def __init__(self, key: RSAKey | ECKey | OKPKey, algorithms: Mapping[str, JWSAlgModel]) -> None:
        super().__init__(strict_check_header=False)  # what is not known is ignored (RFC 7515, 4)
        self.key = key
        self.thumbprint = key.thumbprint()
        self._algorithms = algorithms

    def get_alg(self, name: str) -> JWSAlgModel:
        if not self.takes(name):
            raise UnsupportedAlgorithmError
        return self._algorithms[name]

    def takes(self, algorithm: object) -> bool:
        return isinstance(algorithm, str) and algorithm in self._algorithms

    def signed(self, signature: CompactSignature) -> bool:
        """Whether this key made it."""
        try:
            return validate_compact(signature, self.key, registry=self)
        except (JoseError, ValueError, TypeError):
            return False


def read_key_set(document: bytes, algorithms: tuple[str, ...]) -> tuple[dict[str, VerifyingKey], list[str]]:
    """The keys by their ids, and why others do not count. `IssuerAway` where there is none that does."""
    try:
        members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        entries = msgspec.json.decode(members["keys"], type=list[msgspec.Raw])
    except (ValueError, KeyError, RecursionError) as error:  # msgspec's errors, and UnicodeDecodeError
        raise IssuerAway("what is published is no JWK Set") from error
    found: dict[str, VerifyingKey] = {}
    ignored = [f"all above {_MOST_KEYS}"] if len(entries) > _MOST_KEYS else []
    for number, entry in enumerate(entries[:_MOST_KEYS]):
        try:
            id_, key = _read_key(entry, algorithms)
            if found.setdefault(id_, key) is not key:
                raise Unusable("the kid of a key before it")
        except Unusable as error:
            ignored.append(f"key {number}: {error}")
    if not found:
        raise IssuerAway(f"no key can be used ({'; '.join(ignored) or 'there is none'})"[:1000])
    return found, ignored


def _read_key(entry: msgspec.Raw, algorithms: tuple[str, ...]) -> tuple[str, VerifyingKey]:
    try:
        jwk = msgspec.json.decode(entry, type=Jwk)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"is no JSON Web Key: {error}") from error
    if not jwk.kid or len(jwk.kid) > _LONGEST_ID or not jwk.kid.isprintable():
        raise Unusable("has no kid that tells it apart")
    if jwk.use not in (None, "sig") or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        raise Unusable("is not for signatures")
    if jwk.d is not None:
        raise Unusable("is a private key, which others may have read as well")
    wanted = [name for name in algorithms if TOKEN_ALGORITHMS.get(name) == jwk.kty and jwk.alg in (None, name)]
    if not wanted:
        raise Unusable("is for none of the algorithms that count")
    public = {name: getattr(jwk, name) for name in ("kty", "n", "e", "crv", "x", "y")}
    if jwk.n is not None:
        _check_modulus(jwk.n)
    try:
        key: Any = import_key({name: value for name, value in public.items() if value is not None})
        usable = {name: model for name in wanted if (model := _model(name, key)) is not None}
    except Exception as error:  # whatever a library does with it, it is one key less
        raise Unusable(f"can't be read: {type(error).__name__}") from error
    if not usable:
        raise Unusable("is on a curve of none of the algorithms that count")
    return jwk.kid, VerifyingKey(key, usable)


def _check_modulus(modulus: str) -> None:
    try:
        bits = int.from_bytes(urlsafe_b64decode(f"{modulus}==="), "big").bit_length()
    except ValueError as error:
        raise Unusable("can't be read: n is no base64") from error
    if bits not in _RSA_BITS:
        raise Unusable(f"has {bits} bits")


def _model(name: str, key: Any) -> JWSAlgModel | None:
    """How joserfc verifies, if that goes with `key`."""
    if isinstance(key, OKPKey) and key.curve_name != "Ed25519":  # joserfc's EdDSA takes Ed448 too
        return None
    model = JWSRegistry.algorithms[name]
    try:
        model.check_key(key)
    except JoseError:
        return None
    return model


class IssuerKeys:
    """The keys of the issuer, looked at again and again while this is entered.

    While the issuer is away they count for a bounded time. A key that nobody knows makes it look at once, but not
    more often than the cool-down allows; looks are made by one task, so that never two are under way.
    """

    def __init__(
        self,
        source: KeySource,
        algorithms: tuple[str, ...],
        health: Health,
        *,
        refresh_seconds: float,
        stale_seconds: float,
        cool_down_seconds: float = COOL_DOWN_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._algorithms = algorithms
        self._health = health
        self._refresh_seconds = refresh_seconds
        self._stale_seconds = stale_seconds
        self._cool_down = cool_down_seconds
        self._now = now
        self._keys: dict[str, VerifyingKey] = {}
        self._document = b""
        self._read_at = 0.0
        self._away = False
        self._not_before = 0.0
        self._looking = True  # so that who comes before the first look waits for it
        self._wanted = asyncio.Event()
        self._looked = asyncio.Event()  # another one for each look
        self._listeners: list[Callable[[str], None]] = []

    async def __aenter__(self) -> Self:
        """Returns at once: an issuer that is away holds nothing up."""
        self._task = asyncio.create_task(self._look_forever(), name="issuer-keys")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._away = True  # so that nobody waits for another look
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def wait(self) -> None:
        await asyncio.shield(self._task)

    def on_withdrawn(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each key that does not count any more, at once."""
        self._listeners.append(listener)

    async def find(self, id: str) -> VerifyingKey | None:
        """The key of that id, None if the issuer has none; `Unavailable` where that can't be told now."""
        for _ in range(2):  # a look that is under way may have begun before the key was published
            if id in self._keys or self._away or (looked := self._look()) is None:
                break
            await looked.wait()
        key = self._keys.get(id)
        if key is None and self._away:
            raise Unavailable("the keys of the issuer of access tokens can't be had now", retry_after=self._cool_down)
        return key

    def _look(self) -> asyncio.Event | None:
        """What is set after the look that is under way, or after one that begins now; None within the cool-down."""
        if not self._looking and not self._wanted.is_set():
            if self._now() < self._not_before:
                return None
            self._not_before = self._now() + self._cool_down
            self._wanted.set()
        return self._looked

    async def _look_forever(self) -> None:
        while True:
            self._wanted.clear()
            self._looking = True
            try:
                await self._look_once()
            finally:
                self._looking = False
                self._looked.set()
                self._looked = asyncio.Event()
            pause = min(self._refresh_seconds, self._cool_down) if self._away else self._refresh_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def _look_once(self) -> None:
        try:
            document = await self._source.read()
            if document != self._document:
                keys, ignored = read_key_set(document, self._algorithms)
                self._document = document
                self._take(keys)
                for reason in ignored:
                    log.warning("a key of the issuer does not count", reason=reason)
        except IssuerAway as error:
            self._away = True
            self._health.report("issuer", State.DEGRADED, str(error))
            if self._keys and self._now() - self._read_at > self._stale_seconds:
                log.warning("the issuer was away too long, its keys count no more", seconds=self._stale_seconds)
                self._document = b""
                self._take({})
        else:
            self._away = False
            self._read_at = self._now()
            self._health.report("issuer", State.OK, f"{len(self._keys)} keys")

    def _take(self, keys: dict[str, VerifyingKey]) -> None:
        before, self._keys = self._keys, keys
        for id_, key in before.items():
            if id_ not in keys or keys[id_].thumbprint != key.thumbprint:
                log.info("a key of the issuer was withdrawn", kid=id_)
                for listener in self._listeners:
                    listener(id_)
