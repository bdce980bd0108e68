"""What a request shows of who sends it."""

from starlette.types import Scope

from core.errors import InvalidArgument, Unauthenticated
from core.gate import Gate, Session
from core.telemetry.requests import current
from transports.tls.clients import ClientCertificate

#: Where the scope of a request has the session of whoever sent it.
SESSION = "trivium.session"
#: An access token with many claims is some kilobytes; nothing longer is looked at.
_LONGEST = 16 * 1024


async def admit(gate: Gate, scope: Scope) -> Session:
    """The session of a request, which its log lines name too. Raises what `Gate.admit` raises."""
    session = scope[SESSION] = await gate.admit(RequestCredentials(scope))
    request = current.get()
    if request is not None:
        request.principal = session.principal.name
    return session


class RequestCredentials:
    """`core.gate.Credentials` of an HTTP request: `Authorization: Bearer` (RFC 6750) or `X-API-Key`, never the URL."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @property
    def token(self) -> str | None:
        found: bytes | None = None
        field = ""
        for name, value in self._scope["headers"]:
            if name in (b"authorization", b"x-api-key"):
                if found is not None:
                    raise InvalidArgument("give one credential, once", field=name.decode())
                field = name.decode()
                found = value if name == b"x-api-key" else _bearer(value)
        if found is None:
            return None
        if len(found) > _LONGEST or not found.isascii():
            raise Unauthenticated("is no credential of ours", field=field)
        return found.decode()

    @property
    def certificate(self) -> tuple[str, ...]:
        peer: ClientCertificate | None = self._scope.get("state", {}).get("peer")
        return () if peer is None else peer.all_names

    @property
    def address(self) -> str:
        client = self._scope.get("client")
        return str(client[0]) if client else ""


def _bearer(value: bytes) -> bytes:
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated("must be Bearer and a token", field="authorization")
    return token.strip()
