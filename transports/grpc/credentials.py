"""What a call shows of who makes it."""

from typing import TYPE_CHECKING
from urllib.parse import unquote

from core.errors import InvalidArgument, Unauthenticated
from transports.grpc.tls import peer_names

if TYPE_CHECKING:
    from transports.grpc.calls import Context


class CallCredentials:
    """`core.gate.Credentials` of a call, in the metadata that REST has as headers: `authorization` or `x-api-key`."""

    __slots__ = ("_context",)

    def __init__(self, context: "Context") -> None:
        self._context = context

    @property
    def token(self) -> str | None:
        found: str | None = None
        for name, value in self._context.invocation_metadata() or ():
            if name in ("authorization", "x-api-key"):
                if found is not None:
                    raise InvalidArgument("give one credential, once", field=name)
                found = str(value) if name == "x-api-key" else _bearer(str(value))
        return found

    @property
    def certificate(self) -> tuple[str, ...]:
        peer = peer_names(self._context)
        return () if peer is None else peer.all_names

    @property
    def address(self) -> str:
        """Of `ipv4:127.0.0.1:50812` and `ipv6:%5B::1%5D:50812` what stands in the middle."""
        kind, _, place = unquote(self._context.peer()).partition(":")
        return place.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else place


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("must be Bearer and a token", field="authorization")
    return token.strip()
