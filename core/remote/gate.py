"""Who comes to an edge. The core decides; it is shown the credential of each caller, and judges every call."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import TypeAlias
from weakref import WeakValueDictionary

from core.allowance import Allowance, Rates
from core.errors import Unauthenticated
from core.gate import ANONYMOUS, Credentials, Session, unbounded
from core.guard import GuardedService
from core.places import Failures, network
from core.policy import Identity
from core.ports import MessageService
from core.remote.service import Refused, RemoteService
from core.settings import Settings

#: Who shows a token: the core knows the name.
UNKNOWN = "unknown"
_NO_KEYS = "API keys are administered at the core; this is an edge of it"
#: RFC 6750, section 2.1. Nothing else can be a key or a token, nor goes over both protocols unchanged.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
#: As much as REST takes, and within the metadata that gRPC takes.
_LONGEST = 16 * 1024
#: Of the sessions that are remembered: ten thousand with tokens of the common size, fewer with longer ones.
_MOST_BYTES = 32 * 1024 * 1024
#: What a session takes beside its token.
_SESSION_BYTES = 2000


#: The digest of a token, and where it came from if rates hold there.
_Proof: TypeAlias = tuple[bytes, str]


class ForwardingGate:
    """Passes tokens on, and lets in who has none only with `--auth none`: such callers act as the edge itself.

    A token counts until the core refuses it; that ends the streams of its session. Those of an earlier session, which
    was forgotten because so many came later, end when the core ends them. Rates, and the bound of failed
    authentications, are those of the caller's address: the core sees that of the edge.
    """

    everybody = None

    def __init__(
        self, service: RemoteService, settings: Settings, traced: Callable[[MessageService], MessageService]
    ) -> None:
        """`traced` wraps the service of each session."""
        self._service = service
        self._settings = settings
        self._traced = traced
        self._bounded = settings.rates.bounded
        self._failures = Failures(settings.auth_failures)
        self._sessions: OrderedDict[_Proof, tuple[Session, int]] = OrderedDict()  # and its size
        self._bytes = 0
        self._allowances: WeakValueDictionary[str, Allowance] = WeakValueDictionary()

    async def admit(self, credentials: Credentials) -> Session:
        token = credentials.token
        if token is None and self._settings.auth == "required":
            raise Unauthenticated(
                "an API key or an access token is needed: a client certificate can't be passed on to the core"
                if credentials.certificate
                else "an API key or an access token is needed"
            )
        digest = b"" if token is None else sha256(token.encode()).digest()
        place = network(credentials.address) if self._bounded else ""
        proof = digest, place
        session, _ = self._sessions.get(proof, (None, 0))
        if session is None or not session.alive:
            session = self._open(token, place or network(credentials.address))
            self._remember(proof, session, _SESSION_BYTES + len(token or ""))
        return session

    def used(self, session: Session) -> None:
        """The core notes it."""

    def vouched(self, user: str | None) -> Session:
        raise Unauthenticated("what comes through RabbitMQ is for the core")

    def _open(self, token: str | None, place: str) -> Session:
        name = ANONYMOUS if token is None else UNKNOWN
        session = Session(
            Identity(name=name, anchor=name), unbounded(name), self._allowance(place), time.time, no_keys=_NO_KEYS
        )
        if token is None:
            service = self._service
        else:
            self._failures.check(place)
            if len(token) > _LONGEST or not _TOKEN.match(token):
                self._failures.count(place, "no token")
                raise Unauthenticated("is no API key and no access token", field="credential")
            service = self._service.on_behalf_of(f"Bearer {token}", self._refused(session, place))
        session.service = self._traced(service)
        if self._bounded:
            session.service = GuardedService(session.service, session, default_topic=self._settings.default_topic)
        return session

    def _refused(self, session: Session, place: str) -> Refused:
        def refused(error: Unauthenticated) -> None:
            if session.alive:  # what else was on its way with it is no further guess
                self._failures.count(place, error.detail)
                session.end(error.detail)

        return refused

    def _remember(self, proof: _Proof, session: Session, size: int) -> None:
        """Keep a session, and with it its token, at the cost of those that came first where they are too large."""
        _, before = self._sessions.get(proof, (None, 0))
        self._bytes += size - before
        self._sessions[proof] = session, size
        while self._bytes > _MOST_BYTES:
            self._bytes -= self._sessions.popitem(last=False)[1][1]

    def _allowance(self, place: str) -> Allowance:
        if not self._bounded:
            return Allowance(Rates())
        allowance = self._allowances.get(place)
        if allowance is None:
            allowance = self._allowances[place] = Allowance(self._settings.rates)
        return allowance
