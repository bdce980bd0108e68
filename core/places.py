"""Where callers are, and how often each place failed to say who they are."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import TypeVar

import structlog

from core.allowance import Bucket
from core.errors import Overloaded

log = structlog.get_logger("trivium.gate")

K = TypeVar("K")
V = TypeVar("V")

#: Sessions, and places that failed, that are remembered.
_REMEMBERED = 10_000


class Failures:
    """Failed authentications. A place with too many is put off before a credential is looked at."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._places: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, place: str) -> None:
        """Raise `Overloaded` where too many came from `place`."""
        failed = self._places.get(place)
        if failed is not None and (seconds := failed.wait()):
            raise Overloaded("too many failed authentications came from this address", retry_after=seconds)

    def count(self, place: str, reason: str) -> None:
        bucket = self._places.get(place)
        if bucket is None:
            bucket = Bucket(self._most / 60, burst=self._most)
            remember(self._places, place, bucket)
        bucket.take()
        if bucket.wait():
            log.warning("authentication fails too often", address=place, reason=reason)


def network(address: str) -> str:
    """What counts as one place: an IPv4 address, or the /64 that somebody with IPv6 has at least."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return address


def remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    """Keep `value`, at the cost of the one that came first where there are too many.

    A plain dict that lost many entries takes long to find its first one.
    """
    if key not in known and len(known) >= _REMEMBERED:
        known.popitem(last=False)
    known[key] = value
