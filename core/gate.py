"""Who comes in: credentials become a session, and a session is what every operation runs under."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

import structlog

from core.administration import GuardedKeys, KeyAdministration, KeyService
from core.allowance import Allowance, Rates
from core.closing import Closing
from core.errors import PermissionDenied, Unauthenticated, let_go
from core.guard import GuardedService
from core.keys import PREFIX, KeyRing
from core.places import Failures, network, remember
from core.policy import Grants, Identity, Policy, Principal
from core.ports import MessageService
from core.settings import Settings

log = structlog.get_logger("trivium.gate")

#: No timer runs longer; a stream that old may as well begin anew.
_LONGEST_SECONDS = 30 * 86_400.0
ANONYMOUS = "anonymous"


class Credentials(Protocol):
    """What a caller showed at a door. Read only as far as it is needed."""

    @property
    def token(self) -> str | None:
        """An API key or an access token; `InvalidArgument` if it is not given as it should be."""

    @property
    def certificate(self) -> tuple[str, ...]:
        """Of a verified client certificate: its subject (RFC 4514), then `DNS:` and `URI:` names; else empty."""

    @property
    def address(self) -> str:
        """Where the caller is: an IP address, or any other name of the place."""


class TokenVerifier(Protocol):
    """Knows the issuer of access tokens."""

    def on_withdrawn(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the anchor of each signing key that does not count any more, at once."""

    async def verify(self, token: str) -> Identity:
        """Whose token it is. `Unauthenticated` says what is wrong with it, `Unavailable` that it can't be told now."""


class Session:
    """What one credential opened. It ends with the credential, and so does everything that runs within `lifetime`."""

    def __init__(
        self,
        identity: Identity,
        principal: Principal,
        allowance: Allowance,
        now: Callable[[], float],
        keys: KeyService | None = None,
        *,
        no_keys: str = "nobody administers keys with --auth none",
    ) -> None:
        """Without `keys`, `no_keys` says why nobody administers them."""
        self.identity = identity
        self.principal = principal
        self.allowance = allowance
        self.service: MessageService
        #: The id of the API key that it rests on.
        self.key = identity.anchor.removeprefix("key:") if identity.anchor.startswith("key:") else None
        self._keys = None if keys is None else GuardedKeys(keys, self)
        self._no_keys = no_keys
        self._now = now
        self._ended: str | None = None
        self._closing = Closing()

    @property
    def keys(self) -> KeyService:
        """The API keys as its principal may administer them."""
        if self._keys is None:
            raise PermissionDenied(self._no_keys)
        return self._keys

    @property
    def alive(self) -> bool:
        expires = self.identity.expires
        return self._ended is None and (expires is None or self._now() < expires)

    def check(self) -> None:
        """Raise `Unauthenticated` once it has ended."""
        if not self.alive:
            raise Unauthenticated(self._ended or "the credential has expired", field="credential")

    def end(self, reason: str) -> None:
        """Nothing more under this session, and an end to what runs."""
        self._ended = reason
        self._closing.begin()

    @asynccontextmanager
    async def lifetime(self) -> AsyncIterator[None]:
        """Cuts off what runs within it when the session ends, with `Unauthenticated`. For what takes long."""
        self.check()
        expires = self.identity.expires
        seconds = _LONGEST_SECONDS if expires is None else min(expires - self._now(), _LONGEST_SECONDS)
        running = asyncio.timeout(None if expires is None else seconds)
        try:
            async with running:
                with self._closing.ends(running):
                    yield
        except TimeoutError as error:
            if not running.expired():
                raise
            raise Unauthenticated(self._ended or "the credential has expired", field="credential") from let_go(error)


class Gate(Protocol):
    """Turns credentials into sessions. Doors have no other way to the service."""

    @property
    def everybody(self) -> Session | None:
        """The session of all who come, where nobody has to be told from anybody."""

    async def admit(self, credentials: Credentials) -> Session:
        """Raises `Unauthenticated`, or `Overloaded` where an address failed too often."""

    def used(self, session: Session) -> None:
        """Note that a session which `admit` gave is used again, by somebody who showed the same once more."""

    def vouched(self, user: str | None) -> Session:
        """The session of a user that RabbitMQ vouches for; None is a message without one."""


class OpenGate:
    """`--auth none`: everybody may use the messages, and nobody administers. Rates hold per address."""

    def __init__(self, service: MessageService, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self.everybody = None if settings.rates.bounded else self._session(Allowance(Rates()))
        if self.everybody is not None:
            self.everybody.service = service  # nothing to guard, so it costs nothing

    async def admit(self, credentials: Credentials) -> Session:
        return self.everybody or self._of(credentials.address)

    def used(self, session: Session) -> None:
        """Nothing is kept of it."""

    def vouched(self, user: str | None) -> Session:
        return self.everybody or self._of(f"amqp:{user or ''}")

    def _of(self, address: str) -> Session:
        place = network(address)
        session = self._sessions.get(place)
        if session is None:
            session = self._session(Allowance(self._settings.rates))
            remember(self._sessions, place, session)
        return session

    def _session(self, allowance: Allowance) -> Session:
        session = Session(Identity(name=ANONYMOUS, anchor=ANONYMOUS), unbounded(ANONYMOUS), allowance, time.time)
        session.service = GuardedService(self._service, session, default_topic=self._settings.default_topic)
        return session


def unbounded(name: str) -> Principal:
    """Somebody who may do everything with messages, as far as this process is to judge."""
    everything = ("#",)
    return Principal(name, Grants(publish=everything, read=everything, consume=everything))


class PolicyGate:
    """`--auth required`: API keys, access tokens, client certificates and RabbitMQ's users, and the policy's rights.

    A credential is proved once; then its digest is enough until it ends. Somebody who fails too often from one
    address is put off, while credentials that were proved before go on: who guesses learns nothing, who is good
    notices nothing.
    """

    everybody = None

    def __init__(
        self,
        service: MessageService,
        policy: Policy,
        keys: KeyRing,
        tokens: TokenVerifier | None,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._policy = policy
        self._keys = keys
        self._administration = KeyAdministration(keys)
        self._tokens = tokens
        self._settings = settings
        self._now = now
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()
        self._all: WeakSet[Session] = WeakSet()
        self._allowances: WeakValueDictionary[str, Allowance] = WeakValueDictionary()
        self._failures = Failures(settings.auth_failures)
        keys.on_revoked(lambda anchor: self.end(anchor, "the API key was revoked"))
        if tokens is not None:
            tokens.on_withdrawn(lambda anchor: self.end(anchor, "the key that signed the access token was withdrawn"))

    async def admit(self, credentials: Credentials) -> Session:
        token = credentials.token
        proof: Hashable = sha256(token.encode()).digest() if token is not None else credentials.certificate
        session = self._sessions.get(proof)
        if session is None or not session.alive:
            session = await self._prove(token, proof, credentials)
        self.used(session)
        return session

    def used(self, session: Session) -> None:
        if session.key is not None:
            self._keys.last_used[session.key] = self._now()

    def vouched(self, user: str | None) -> Session:
        name = self._settings.amqp_principal if user is None else self._policy.by_rabbitmq_user(user)
        if not name:
            raise Unauthenticated(
                "has no user_id, and amqp_principal is not set"
                if user is None
                else f"user {user[:100]!r} of RabbitMQ is no principal of the policy",
                field="user_id",
            )
        proof = ("user", user)
        session = self._sessions.get(proof)
        if session is None or not session.alive:
            session = self._open(Identity(name=name, anchor=f"user:{user or ''}"), proof)
        return session

    def end(self, anchor: str, reason: str) -> None:
        """End every session that rests on `anchor`."""
        for session in list(self._all):
            if session.identity.anchor == anchor:
                session.end(reason)

    def reload(self, policy: Policy) -> None:
        """Take another policy, for open streams too."""
        self._policy = policy
        self._keys.principals = policy.principals.keys()
        for session in list(self._all):
            if session.identity.anchor.partition(":")[0] in ("user", "certificate"):
                session.end("the policy was changed")  # it says who somebody is: ask again
            else:
                session.principal = policy.principal(session.identity)

    async def _prove(self, token: str | None, proof: Hashable, credentials: Credentials) -> Session:
        if token is None and not credentials.certificate:
            raise Unauthenticated("an API key, an access token or a client certificate is needed")
        place = network(credentials.address)
        self._failures.check(place)
        try:
            return self._open(await self._identify(token, credentials), proof)
        except Unauthenticated as error:
            self._failures.count(place, str(error))
            raise

    async def _identify(self, token: str | None, credentials: Credentials) -> Identity:
        if token is None:
            return self._certified(credentials.certificate)
        if token.startswith(PREFIX):
            return self._keys.identify(token)
        if self._tokens is None:
            raise Unauthenticated("is no API key, and access tokens are not set up here", field="credential")
        return await self._tokens.verify(token)

    def _certified(self, names: tuple[str, ...]) -> Identity:
        name = self._policy.by_certificate(*names)
        if name is None:
            raise Unauthenticated(f"the policy has no principal for the certificate {names[0]!r}", field="credential")
        return Identity(name=name, anchor=f"certificate:{names[0]}")

    def _open(self, identity: Identity, proof: Hashable) -> Session:
        kind, _, _ = identity.anchor.partition(":")
        holder = f"token:{identity.name}" if identity.scopes is not None else identity.name
        allowance = self._allowances.get(holder)
        if allowance is None:
            allowance = self._allowances[holder] = Allowance(self._settings.rates)
        session = Session(identity, self._policy.principal(identity), allowance, self._now, self._administration)
        session.service = GuardedService(self._service, session, default_topic=self._settings.default_topic)
        self._all.add(session)
        remember(self._sessions, proof, session)
        log.debug("session", principal=identity.name, kind=kind)
        return session
