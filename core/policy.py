"""Who may do what on which topic: one table of operations, one of principals, one decision."""

import re
import tomllib
from collections.abc import Mapping
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from core.errors import PermissionDenied
from core.limits import check_topic


class Scope(StrEnum):
    """What a grant allows on its topics."""

    PUBLISH = "publish"
    READ = "read"
    CONSUME = "consume"  # reserved: no operation needs it yet
    ADMIN = "admin"


class Needs(Enum):
    """What an operation needs that is about no topic."""

    NOTHING = "anybody may ask, without a credential"
    IDENTITY = "every principal may"


#: Every operation of every door. A route, an RPC or a consumer names one of these, or it can't be built.
OPERATIONS: Mapping[str, Scope | Needs] = {
    "get_data": Scope.READ,
    "publish": Scope.PUBLISH,
    "get_message": Scope.READ,
    "read_messages": Scope.READ,
    "follow": Scope.READ,
    "list_topics": Scope.READ,  # it lists the topics that the principal may read
    "create_key": Scope.ADMIN,
    "list_keys": Scope.ADMIN,
    "revoke_key": Scope.ADMIN,
    "describe": Needs.IDENTITY,  # OpenAPI and its pages, gRPC reflection
    "health": Needs.NOTHING,  # probes carry no credentials; REST tells its details to principals only
}

#: Where a grant stands for the service as a whole, as `admin` has it.
EVERYTHING = "#"
_PATTERN = r"^(?:[A-Za-z0-9_-]+|\*|#)(?:\.(?:[A-Za-z0-9_-]+|\*|#))*\Z"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}\Z"
#: What was allowed is remembered, per session, of which there may be thousands. To ask again takes a microsecond.
_REMEMBERED = 100
_ANY_WORDS = r"(?:\.[^.]*)*"

Pattern = Annotated[str, Meta(pattern=_PATTERN, max_length=200)]
Name = Annotated[str, Meta(pattern=_NAME)]


class Grants(Struct, frozen=True, forbid_unknown_fields=True):
    """Scopes and the topics that they hold on, as RabbitMQ binds: `*` is one word between dots, `#` any number."""

    publish: tuple[Pattern, ...] = ()
    read: tuple[Pattern, ...] = ()
    consume: tuple[Pattern, ...] = ()
    admin: tuple[Pattern, ...] = ()

    def and_those_of(self, other: "Grants") -> "Grants":
        return Grants(*(getattr(self, scope) + getattr(other, scope) for scope in Scope))


class Entry(Grants, frozen=True, forbid_unknown_fields=True):
    """A principal of the policy, and what it is known by at other authorities than ours."""

    certificates: tuple[str, ...] = ()  # CN=shop,O=Example (RFC 4514), DNS:shop.example, URI:spiffe://example/shop
    rabbitmq_users: tuple[str, ...] = ()


class Identity(Struct, frozen=True, kw_only=True):
    """Who somebody is, as a credential proved it. `anchor` names what that rests on, and can end with."""

    name: str
    anchor: str
    scopes: tuple[str, ...] | None = None  # of an access token, which brings its rights along; else the policy has them
    expires: float | None = None  # seconds since 1970


class Principal:
    """Somebody with rights. Everything that is not granted is denied."""

    def __init__(self, name: str, grants: Grants) -> None:
        self.name = name
        self._patterns = {scope: _compiled(getattr(grants, scope)) for scope in Scope}
        self._everywhere = {scope for scope in Scope if EVERYTHING in getattr(grants, scope)}
        self._allowed: set[tuple[str, str | None]] = set()

    def may(self, scope: Scope, topic: str | None) -> bool:
        """Whether a grant covers `topic`; None is the service as a whole."""
        if scope in self._everywhere:
            return True
        pattern = self._patterns[scope]
        return topic is not None and pattern is not None and pattern.fullmatch(f".{topic}") is not None

    def may_somewhere(self, scope: Scope) -> bool:
        return self._patterns[scope] is not None

    def allow(self, operation: str, topic: str | None = None) -> None:
        """Raise `PermissionDenied` unless this principal may, `InvalidArgument` for what no topic is called."""
        if (operation, topic) in self._allowed:
            return
        if topic is not None:
            check_topic(topic)
        needs = OPERATIONS[operation]
        if isinstance(needs, Scope) and not self.may(needs, topic):
            where = f" topic {topic!r}" if topic is not None else ""
            raise PermissionDenied(f"principal {self.name!r} has no grant to {needs}{where}")
        if len(self._allowed) >= _REMEMBERED:
            self._allowed.clear()
        self._allowed.add((operation, topic))


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """The table of the policy file: principals by name, and what the scopes of access tokens grant."""

    principals: dict[Name, Entry] = {}
    scopes: dict[str, Grants] = {}

    def principal(self, identity: Identity) -> Principal:
        """Who that is here. Somebody the policy does not know has no rights."""
        if identity.scopes is None:
            return Principal(identity.name, self.principals.get(identity.name, Grants()))
        grants = Grants()
        for scope in identity.scopes:
            grants = grants.and_those_of(self.scopes.get(scope, Grants()))
        return Principal(identity.name, grants)

    def by_certificate(self, *names: str) -> str | None:
        """The principal that has a certificate with one of these names."""
        return next(
            (name for name, entry in self.principals.items() if not set(names).isdisjoint(entry.certificates)), None
        )

    def by_rabbitmq_user(self, user: str) -> str | None:
        return next((name for name, entry in self.principals.items() if user in entry.rabbitmq_users), None)


class InvalidPolicy(Exception):
    """The policy file can't be used, and why."""


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file; `InvalidPolicy` names what is wrong, and where.

    A certificate or a user of RabbitMQ stands for one principal.
    """
    try:
        with path.open("rb") as file:
            policy = msgspec.convert(tomllib.load(file), Policy, strict=True)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidPolicy(f"{path}: {reason}") from error
    for what in ("certificates", "rabbitmq_users"):
        seen: dict[str, str] = {}
        for name, entry in policy.principals.items():
            for value in getattr(entry, what):
                if seen.setdefault(value, name) != name:
                    raise InvalidPolicy(f"{path}: {value!r} is among the {what} of both {seen[value]} and {name}")
    return policy


def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(_expression, patterns))) if patterns else None


def _expression(pattern: str) -> str:
    """Of a topic with a dot before it, so that each of its words has one, and `#` may stand for none.

    What is between two `#` is looked for once, from the left: any later place would leave less for the rest. Were
    others tried too, as an expression does by default, a topic could be made that takes minutes.
    """
    first, *others = (_words(part) for part in f".{pattern}.".split(".#"))
    if not others:
        return first
    *middle, last = others
    found = "".join(rf"(?>{_ANY_WORDS}?{part}(?![^.]))" for part in middle if part)
    return f"{first}{found}{_ANY_WORDS}{last}"


def _words(part: str) -> str:
    """Of `.a.*.` with or without its dots at the ends."""
    words = filter(None, part.split("."))
    return "".join(r"\.[^.]*" if word == "*" else rf"\.{re.escape(word)}" for word in words)
