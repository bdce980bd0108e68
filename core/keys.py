"""API keys: made, told once, recognised, revoked. What is kept of one is its id and its SHA-256."""

import asyncio
import hmac
import re
import secrets
import string
import time
import zlib
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Protocol, Self

import structlog
from msgspec import Struct, structs

from core.errors import Conflict, InvalidArgument, NotFound, TriviumError, Unauthenticated
from core.policy import Identity

log = structlog.get_logger("trivium.keys")

PREFIX = "trv_"
_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 12
#: 32 of 62 letters are 190 random bits.
_SECRET_LENGTH = 32
_CHECKSUM_LENGTH = 6
_KEY = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}([0-9A-Za-z]{{6}})")
#: An old key and the new one that replaces it.
LIVE_KEYS = 2
#: A century; datetime ends not much later.
_LONGEST_DAYS = 36_500
#: Between two times that the last uses are written down; what a crash may cost.
_FLUSH_SECONDS = 60.0
#: Principals that an error names.
_MOST_NAMED = 20


class ApiKey(Struct, frozen=True, kw_only=True):
    """What is known of a key. Times are aware, in UTC, in whole seconds."""

    id: str
    principal: str
    digest: bytes
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None

    def live(self, now: datetime) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyStore(Protocol):
    """Where keys are kept. What a call has stored is durable when it returns."""

    async def load(self) -> Sequence[ApiKey]:
        """All keys there are."""

    async def save(self, key: ApiKey) -> None:
        """Add a key, or put it in the place of the one with its id."""

    async def save_last_used(self, times: Mapping[str, datetime]) -> None:
        """Note when keys, by their ids, were used last."""


class KeyRing:
    """All keys in memory, so that ten thousand cost a lookup no more than ten do. One process at a time holds it."""

    def __init__(
        self, store: KeyStore, now: Callable[[], float] = time.time, *, principals: Collection[str] | None = None
    ) -> None:
        """Keys are made for `principals`; None is for everybody."""
        self.principals = principals
        self.last_used: dict[str, float] = {}  # by id, since the last flush
        self._store = store
        self._now = now
        self._keys: dict[str, ApiKey] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._writing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Load the keys, and write down now and then when they were used."""
        await self.open()
        self._flushing = asyncio.create_task(self._flush_often(), name="key-uses")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flushing.cancel()
        await asyncio.wait({self._flushing, *self._writing})
        await self._try_to_flush()

    async def wait(self) -> None:
        """Never returns; raises what ended the writing, which is a defect."""
        await asyncio.shield(self._flushing)

    async def open(self) -> None:
        """Load what the store has."""
        keys = sorted(await self._store.load(), key=lambda key: (key.created, key.id))
        self._keys = {key.id: key for key in keys}

    def on_revoked(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the anchor of each key that is revoked, at once."""
        self._listeners.append(listener)

    def identify(self, token: str) -> Identity:
        """Whose key this is; `Unauthenticated` for one that is not ours, or has ended."""
        shape = _KEY.fullmatch(token)
        if shape is None or shape[2] != _checksum(token[:-_CHECKSUM_LENGTH]):
            raise Unauthenticated("is no API key: a character is wrong or missing", field="credential")
        key = self._keys.get(shape[1])
        if key is None or not hmac.compare_digest(key.digest, sha256(token.encode()).digest()):
            raise Unauthenticated("the API key is unknown", field="credential")
        if key.revoked is not None:
            raise Unauthenticated("the API key was revoked", field="credential")
        if not key.live(self._time()):
            raise Unauthenticated("the API key has expired", field="credential")
        expires = None if key.expires is None else key.expires.timestamp()
        return Identity(name=key.principal, anchor=f"key:{key.id}", expires=expires)

    async def create(self, principal: str, days: float | None = None) -> tuple[ApiKey, str]:
        """A new key for `principal`, and its text, which nobody can tell again.

        Raises `InvalidArgument`, and `Conflict` where the principal has two live ones: one is revoked before the
        third is made.
        """
        self._check_principal(principal)
        if days is not None and not 0 < days <= _LONGEST_DAYS:
            raise InvalidArgument(f"must be above 0 and at most {_LONGEST_DAYS}", field="days")
        now = self._time()
        live = [key.id for key in self._keys.values() if key.principal == principal and key.live(now)]
        if len(live) >= LIVE_KEYS:
            raise Conflict(f"{principal!r} has {LIVE_KEYS} live keys, {' and '.join(live)}: revoke one of them first")
        id_ = _random(_ID_LENGTH)
        text = f"{PREFIX}{id_}_{_random(_SECRET_LENGTH)}"
        text += _checksum(text)
        expires = None if days is None else _at(self._now() + days * 86_400)
        key = ApiKey(id=id_, principal=principal, digest=sha256(text.encode()).digest(), created=now, expires=expires)
        self._keys[id_] = key  # before the wait, so that two at once can't make a third
        await self._whatever_comes(self._add(key))
        return key, text

    async def revoke(self, id: str) -> ApiKey:
        """End a key, and everything that was opened with it; no error if it was revoked before.

        Past an error of the store the key has ended, but only for this process: to repeat it writes it down.
        """
        key = self._keys.get(id)
        if key is None:
            raise NotFound(f"there is no key {id[:40]!r}", field="id")
        if key.revoked is None:
            key = structs.replace(key, revoked=self._time())
            self._keys[id] = key  # takes effect even where it can't be written down
            for listener in self._listeners:
                listener(f"key:{id}")
            log.info("an API key was revoked", key=id, principal=key.principal)
        await self._whatever_comes(self._store.save(key))
        return self._with_last_use(key)

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        return [self._with_last_use(key) for key in self._keys.values()]

    async def flush(self) -> None:
        """Write down when keys were used last."""
        used, self.last_used = self.last_used, {}
        if not used:
            return
        times = {id_: _at(seconds) for id_, seconds in used.items()}
        for id_, when in times.items():
            self._keys[id_] = structs.replace(self._keys[id_], last_used=when)
        await self._store.save_last_used(times)

    async def _add(self, key: ApiKey) -> None:
        try:
            await self._store.save(key)
        except Exception:
            del self._keys[key.id]
            raise
        log.info("an API key was made", key=key.id, principal=key.principal)

    async def _whatever_comes(self, writing: Coroutine[Any, Any, None]) -> None:
        """Write to the end, also if the caller leaves meanwhile: the file must have what this process believes."""
        task = asyncio.create_task(writing, name="key-writing")
        self._writing.add(task)
        task.add_done_callback(self._written)
        await asyncio.shield(task)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # its caller may have left
            log.error("a change of the API keys was not written down", reason=str(error))

    def _with_last_use(self, key: ApiKey) -> ApiKey:
        used = self.last_used.get(key.id)
        return key if used is None else structs.replace(key, last_used=_at(used))

    def _check_principal(self, name: str) -> None:
        known = self.principals
        if known is None or name in known:
            return
        some = ", ".join(sorted(known)[:_MOST_NAMED]) + (", ..." if len(known) > _MOST_NAMED else "")
        has = f"which has {some}" if known else "which has none"
        raise InvalidArgument(f"{name[:100]!r} is no principal of the policy, {has}", field="principal")

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except TriviumError as error:  # who used a key when is not worth the service
            log.warning("the last uses of keys were not written down", reason=str(error))

    def _time(self) -> datetime:
        return _at(self._now())


def _at(seconds: float) -> datetime:
    """The time that seconds since 1970 are, as it is kept: in whole ones."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    """CRC-32 in base 62: a scanner for leaked secrets can tell a key from what merely looks like one."""
    value = zlib.crc32(text.encode())
    letters = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        letters = _ALPHABET[digit] + letters
    return letters
