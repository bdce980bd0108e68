"""What a request shows of who sends it."""

from collections.abc import Sequence

from starlette.types import Scope

from core.errors import InvalidArgument, Unauthenticated
from core.gate import Gate, Session
from core.telemetry.requests import current
from transports.tls.clients import ClientCertificate

#: Where the scope of a request has the session of whoever sent it.
SESSION = "trivium.session"
#: Where the scope of a request has its headers by name; of one that is given several times, the last.
FIELDS = "trivium.fields"
#: Where the state of a connection has what it showed.
SHOWN = "trivium.shown"
_AUTHORIZATION, _API_KEY = b"authorization", b"x-api-key"
#: An access token with many claims is some kilobytes; nothing longer is looked at.
_LONGEST = 16 * 1024


class Shown:
    """The headers with which a connection was let in last, and the session: most send the same with every request.

    To compare them costs a third of a digest and a look-up. They are the connection's own: nobody learns from the time.
    """

    __slots__ = ("headers", "session")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.session: Session | None = None


async def admit(gate: Gate, scope: Scope) -> Session:
    """The session of a request, which its log lines name too. Raises what `Gate.admit` raises."""
    session = gate.everybody or await _session(gate, scope)
    scope[SESSION] = session
    request = current.get()
    if request is not None:
        request.principal = session.principal.name
    return session


async def _session(gate: Gate, scope: Scope) -> Session:
    fields = scope[FIELDS]
    showing = _AUTHORIZATION in fields or _API_KEY in fields
    headers = [header for header in scope["headers"] if header[0] in (_AUTHORIZATION, _API_KEY)] if showing else []
    shown: Shown | None = scope["state"].get(SHOWN) if headers else None
    if shown is not None and shown.headers == headers and shown.session is not None and shown.session.alive:
        gate.used(shown.session)
        return shown.session
    session = await gate.admit(RequestCredentials(scope, headers))
    if shown is not None:
        shown.headers, shown.session = headers, session
    return session


class RequestCredentials:
    """`core.gate.Credentials` of an HTTP request: `Authorization: Bearer` (RFC 6750) or `X-API-Key`, never the URL."""

    __slots__ = ("_headers", "_scope")

    def __init__(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """`headers` are those of `scope` that may hold a credential."""
        self._scope = scope
        self._headers = headers

    @property
    def token(self) -> str | None:
        if not self._headers:
            return None
        (name, value), *others = self._headers
        field = name.decode()
        if others:
            raise InvalidArgument("give one credential, once", field=field)
        found = _bearer(value) if name == _AUTHORIZATION else value
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
