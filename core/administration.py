"""API keys as those see them who administer them, at whichever door."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol, Self

from msgspec import Struct

from core.errors import InvalidArgument
from core.guard import Caller
from core.keys import ApiKey, KeyRing
from core.service import MAX_PAGE, check_limit


class KeyInfo(Struct, frozen=True, kw_only=True):
    """What may be told of a key. Times are in UTC, in whole seconds."""

    id: str
    principal: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls(**{name: getattr(key, name) for name in KeyInfo.__struct_fields__})


class NewKey(Struct, frozen=True):
    """A key that was just made: `key` is its text, which nobody can tell again."""

    key: str
    info: KeyInfo

    def __repr__(self) -> str:
        return f"NewKey(..., {self.info!r})"  # it may end in a log


class KeyPage(Struct, frozen=True):
    """Some keys, the oldest first, and what to pass as `after` for more; None after the last."""

    keys: tuple[KeyInfo, ...]
    next: str | None


class KeyService(Protocol):
    """What administrators do. A change is durable when its call returns."""

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        """A key for a principal of the policy, for so many days or without an end.

        Raises `InvalidArgument`, and `Conflict` where the principal has as many live keys as it may.
        """

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        """Keys that were made after the one with the id `after`, ended ones included; `InvalidArgument`."""

    async def revoke_key(self, id: str) -> KeyInfo:
        """End a key and all that it opened. No error if it was revoked before; `NotFound` if there is none."""


class KeyAdministration:
    """A `KeyService` for who may do everything: whoever can open the files can."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        key, text = await self._keys.create(principal, days)
        return NewKey(text, KeyInfo.of(key))

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        limit = check_limit(limit)
        keys = self._keys.list()
        start = 0
        if after:
            start = next((place for place, key in enumerate(keys, 1) if key.id == after), 0)
            if not start:
                raise InvalidArgument(f"there is no key {after[:40]!r}", field="after")
        found = tuple(map(KeyInfo.of, keys[start : start + limit]))
        return KeyPage(found, found[-1].id if start + limit < len(keys) else None)

    async def revoke_key(self, id: str) -> KeyInfo:
        return KeyInfo.of(await self._keys.revoke(id))


class GuardedKeys:
    """A `KeyService` that does what the caller may, and else raises `Unauthenticated` or `PermissionDenied`."""

    def __init__(self, keys: KeyService, caller: Caller) -> None:
        self._keys = keys
        self._caller = caller

    async def create_key(self, principal: str, days: float | None = None) -> NewKey:
        self._begin("create_key")
        return await self._keys.create_key(principal, days)

    async def list_keys(self, *, after: str = "", limit: int | None = None) -> KeyPage:
        self._begin("list_keys")
        return await self._keys.list_keys(after=after, limit=limit)

    async def revoke_key(self, id: str) -> KeyInfo:
        self._begin("revoke_key")
        return await self._keys.revoke_key(id)

    def _begin(self, operation: str) -> None:
        self._caller.check()
        self._caller.principal.allow(operation)
        self._caller.allowance.request()


async def all_keys(keys: KeyService) -> AsyncIterator[KeyInfo]:
    """Every key, page by page."""
    after: str | None = ""
    while after is not None:
        page = await keys.list_keys(after=after, limit=MAX_PAGE)
        for key in page.keys:
            yield key
        after = page.next
