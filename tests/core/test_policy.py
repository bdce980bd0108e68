"""Principals, grants and the table of operations."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PermissionDenied
from core.policy import (
    OPERATIONS,
    Entry,
    Grants,
    Identity,
    InvalidPolicy,
    Policy,
    Principal,
    Scope,
    read_policy,
)
from core.ports import MessageService


def binds(pattern: str, topic: str) -> bool:
    """RabbitMQ's topic exchange, word by word."""

    def match(words: list[str], parts: list[str]) -> bool:
        if not words:
            return not parts
        if words[0] == "#":
            return any(match(words[1:], parts[taken:]) for taken in range(len(parts) + 1))
        return bool(parts) and words[0] in ("*", parts[0]) and match(words[1:], parts[1:])

    return match(pattern.split("."), topic.split("."))


words = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5).map(".".join)
topics = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5).map(".".join)


@given(words, topics)
def test_patterns_cover_what_rabbitmq_would_route(pattern: str, topic: str) -> None:
    """`*` is one word, `#` any number of them, none included."""
    principal = Principal("p", Grants(read=(pattern,)))
    assert principal.may(Scope.READ, topic) is binds(pattern, topic)


def test_everything_is_denied_but_what_is_granted() -> None:
    """A grant holds for its own scope and topics, and for no other."""
    principal = Principal("shop", Grants(publish=("orders.*",), read=("orders.#", "stock")))
    assert principal.may(Scope.PUBLISH, "orders.new")
    assert not principal.may(Scope.PUBLISH, "orders")
    assert not principal.may(Scope.PUBLISH, "stock")
    assert not principal.may(Scope.CONSUME, "orders.new")
    with pytest.raises(PermissionDenied, match="'shop' has no grant to publish topic 'stock'"):
        principal.allow("publish", "stock")


def test_the_service_as_a_whole_takes_the_pattern_that_covers_all() -> None:
    """A grant on some topics does not administer the service."""
    assert not Principal("p", Grants(admin=("*", "orders.#"))).may(Scope.ADMIN, None)
    Principal("p", Grants(admin=("#",))).allow("create_key")


def test_decisions_are_bounded() -> None:
    """A principal that asks for ever new topics does not fill the memory."""
    principal = Principal("p", Grants(read=("#",)))
    for number in range(25_000):
        principal.allow("get_data", f"t{number}")
    assert len(principal._allowed) <= 10_000


def test_the_table_has_every_operation_of_the_service() -> None:
    """An operation without a right can't be served."""
    operations = {name for name in vars(MessageService) if not name.startswith("_")}
    assert operations
    assert operations <= set(OPERATIONS)


def test_scopes_of_a_token_grant_what_the_policy_says() -> None:
    """A token brings its scopes; those that nobody mapped grant nothing, and neither does its subject's name."""
    policy = Policy(
        principals={"shop": Entry(publish=("#",))},
        scopes={"orders:write": Grants(publish=("orders.#",)), "all:read": Grants(read=("#",))},
    )
    identity = Identity(name="shop", anchor="kid:1", scopes=("orders:write", "all:read", "openid"))
    principal = policy.principal(identity)
    assert principal.may(Scope.PUBLISH, "orders.new")
    assert principal.may(Scope.READ, "stock")
    assert not principal.may(Scope.PUBLISH, "stock")


def test_reads_a_policy(tmp_path: Path) -> None:
    """The file names principals, their grants and what they are known by elsewhere."""
    path = tmp_path / "policy.toml"
    path.write_text(
        """
        [principals.shop]
        publish = ["orders.*"]
        certificates = ["CN=shop"]
        rabbitmq_users = ["shop-user"]
        [scopes."orders:read"]
        read = ["orders.#"]
        """
    )
    policy = read_policy(path)
    assert policy.principal(Identity(name="shop", anchor="key:1")).may(Scope.PUBLISH, "orders.new")
    assert policy.by_certificate("CN=other", "CN=shop") == "shop"
    assert policy.by_rabbitmq_user("shop-user") == "shop"
    assert policy.by_rabbitmq_user("shop") is None
    assert policy.by_certificate() is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[principals.shop]\npublish = ['orders.']", "principals"),
        ("[principals.shop]\npublish = ['or*ders']", "publish"),
        ("[principals.shop]\nwrite = ['#']", "unknown field `write`"),
        ("[principals.'a b']\nread = ['#']", "principals"),
        ("[principals.shop]\nread = '#'", "array"),
        ("[principles.shop]", "unknown field `principles`"),
        ("[", "policy.toml: "),
        (
            "[principals.a]\nrabbitmq_users=['u']\n[principals.b]\nrabbitmq_users=['u']",
            "'u' is among the rabbitmq_users",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_the_place(tmp_path: Path, text: str, reason: str) -> None:
    """A typing error must not become a right, or the lack of one."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InvalidPolicy, match=re.escape(reason)):
        read_policy(path)


def test_a_missing_policy_is_told(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(InvalidPolicy, match="No such file"):
        read_policy(tmp_path / "none.toml")
