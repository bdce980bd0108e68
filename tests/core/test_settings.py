"""Where settings come from, and what is wrong with them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.settings import InvalidSettings, Settings, load, options, problems_of, readable_secrets

SECRET = "hunter2"


def toml(folder: Path, text: str) -> Path:
    path = folder / "trivium.toml"
    path.write_text(text)
    return path


def problems(
    flags: dict[str, Any] | None = None, env: dict[str, str] | None = None, file: Path | None = None
) -> list[str]:
    """What `load` finds wrong."""
    with pytest.raises(InvalidSettings) as caught:
        load(flags or {}, env or {}, file)
    assert str(caught.value).splitlines() == caught.value.problems
    return caught.value.problems


def test_nothing_given_is_the_defaults() -> None:
    """They are the contract's."""
    settings = load({}, {})
    assert settings == Settings()
    assert (settings.rest_host, settings.rest_port, settings.grpc_port) == ("127.0.0.1", 8080, 50051)
    assert (settings.data_dir, settings.drain_seconds) == ("./data", 20.0)
    assert (settings.rest, settings.grpc, settings.amqp) == (True, True, True)
    assert settings.amqp_url == "amqp://guest:guest@127.0.0.1:5672/"


def test_the_precedence(tmp_path: Path) -> None:
    """Flag > environment > file of a secret > TOML > default."""
    file = toml(tmp_path, "rest_port = 1")
    secret = tmp_path / "port"
    secret.write_text("2\n")
    of_file = {"TRIVIUM_REST_PORT_FILE": str(secret)}
    of_environment = of_file | {"TRIVIUM_REST_PORT": "3"}
    assert load({}, {}, file).rest_port == 1
    assert load({}, of_file, file).rest_port == 2
    assert load({}, of_environment, file).rest_port == 3
    assert load({"rest_port": "4"}, of_environment, file).rest_port == 4


def test_a_flag_that_was_not_given_decides_nothing() -> None:
    """argparse says None for it."""
    assert load({"rest": None}, {"TRIVIUM_REST": "off"}).rest is False
    assert load({"rest": True}, {"TRIVIUM_REST": "off"}).rest is True


def test_amqp_url_is_an_alias(tmp_path: Path) -> None:
    """Our own name beats it, it beats the file."""
    secret = tmp_path / "url"
    secret.write_text("amqp://file\n")
    env = {"TRIVIUM_AMQP_URL_FILE": str(secret)}
    assert load({}, env).amqp_url == "amqp://file"
    env["AMQP_URL"] = "amqp://alias"
    assert load({}, env).amqp_url == "amqp://alias"
    env["TRIVIUM_AMQP_URL"] = "amqp://own"
    assert load({}, env).amqp_url == "amqp://own"


@pytest.mark.parametrize(
    ("word", "value"), [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("No", False)]
)
def test_words_for_switches(word: str, value: bool) -> None:
    """As people write them."""
    assert load({}, {"TRIVIUM_GRPC": word}).grpc is value


def test_toml_takes_both_spellings_and_its_own_types(tmp_path: Path) -> None:
    """`x-y` and `x_y`."""
    settings = load({}, {}, toml(tmp_path, 'rest-port = 1\ngrpc_port = 2\namqp = false\nlog-level = "debug"'))
    assert (settings.rest_port, settings.grpc_port, settings.amqp, settings.log_level) == (1, 2, False, "debug")


def test_all_problems_are_listed_at_once_with_their_origin(tmp_path: Path) -> None:
    """One run is enough to mend a configuration."""
    file = toml(tmp_path, 'rest_port = "x"\nno_such = 1\ndefault_topic = "a b"\n[grpc]\nport = 1')
    env = {"TRIVIUM_LOG_LEVEL": "loud", "TRIVIUM_GRPC_PORT_FILE": str(tmp_path / "missing"), "TRIVIUM_AMQP": "maybe"}
    found = problems({"drain_seconds": "-1"}, env, file)
    origins = ["--drain-seconds", "TRIVIUM_LOG_LEVEL", "TRIVIUM_GRPC_PORT_FILE", "TRIVIUM_AMQP"]
    origins += ["rest_port", "default_topic", "grpc", str(file)]
    assert sorted(found) == sorted(next(one for one in found if one.startswith(f"{origin}: ")) for origin in origins)
    assert f"{file}: no setting is named 'no_such'" in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rest_port", "-1"),
        ("rest_port", "65536"),
        ("rest_port", "80.5"),
        ("rest_port", ""),
        ("drain_seconds", "0"),
        ("drain_seconds", "nan"),
        ("drain_seconds", "inf"),
        ("max_streams", "0"),
        ("max_topics", "8000001"),
        ("max_message_bytes", "1023"),
        ("amqp_prefetch", "65536"),
        ("amqp_prefix", "a b"),
        ("amqp_prefix", "a\n"),
        ("amqp_prefix", ""),
        ("default_topic", ".a"),
        ("default_topic", "a\n"),
        ("relay_from", "end"),
        ("log_format", "xml"),
        ("rest", "2"),
    ],
)
def test_values_out_of_bounds(name: str, value: str) -> None:
    """Each is one problem that names the flag."""
    (problem,) = problems({name: value})
    assert problem.startswith(f"--{name.replace('_', '-')}: ")


def test_values_at_the_bounds() -> None:
    """They pass."""
    settings = load({"rest_port": "0", "grpc_port": "65535", "max_message_bytes": "1024", "drain_seconds": "86400"}, {})
    assert (settings.rest_port, settings.grpc_port, settings.drain_seconds) == (0, 65535, 86400.0)


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    """Not even where somebody gave it in place of the file's name."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET.encode() + b"\xff")
    broken = toml(tmp_path, f'amqp_url = ["{SECRET}"]')
    for env in ({"TRIVIUM_AMQP_URL_FILE": f"amqp://me:{SECRET}@host"}, {"TRIVIUM_AMQP_URL_FILE": str(file)}, {}):
        found = problems({"rest_port": "x"}, env, broken)
        assert len(found) == 2
        assert not any("0xff" in one for one in found)
        assert not any(SECRET in one for one in found)


def test_a_toml_file_that_can_not_be_read(tmp_path: Path) -> None:
    """Missing, broken, or not UTF-8."""
    broken = tmp_path / "broken.toml"
    for content in (None, b"rest_port =", b"\xff"):
        if content is not None:
            broken.write_bytes(content)
        (problem,) = problems(file=broken)
        assert problem.startswith(f"{broken}: ")


def test_every_setting_is_an_option_with_a_description() -> None:
    """`--help` explains all of them."""
    found = {option.name: option for option in options()}
    assert list(found) == [field.name for field in msgspec.structs.fields(Settings)]
    assert all(option.description.endswith(".") for option in found.values())
    assert found["rest_port"].flag == "--rest-port"
    assert found["amqp_prefix"].description == "First part of queue names."
    assert found["log_format"].choices == ("auto", "text", "json")
    assert [name for name, option in found.items() if option.is_switch] == [
        *("rest", "grpc", "amqp", "insecure", "admin", "amqp_declare")
    ]


def test_the_limits_are_those_of_the_settings() -> None:
    """One place for each number."""
    limits = Settings(max_message_bytes=2000, max_attributes_bytes=1500, max_extensions=3, max_batch_messages=4).limits
    assert (limits.message_bytes, limits.attributes_bytes, limits.extensions, limits.batch_messages) == (
        2000,
        1500,
        3,
        4,
    )
    assert Settings().limits == type(limits)()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rest_host": "192.0.2.1"}, "--rest-host 192.0.2.1 can be reached by others"),
        ({"grpc_host": "::"}, "--grpc-host :: can be reached by others"),
        ({"grpc_host": "example.org"}, "--insecure"),
        ({"auth": "required"}, "needs --policy"),
        ({"rest": False, "grpc": False, "amqp": False}, "no door is enabled"),
        ({"core": "grpc://core:1", "rest_host": "192.0.2.1"}, "--rest-host 192.0.2.1 can be reached by others"),
        ({"core": "grpc://core:1", "auth": "required", "policy": "policy.toml"}, "--policy is for the core"),
        ({"core": "grpc://core:1", "auth": "required", "token_issuer": "https://a"}, "--token-issuer is for the core"),
        ({"core": "grpc://core:1", "auth": "required", "core_api_key": "trv_x"}, "--core-api-key is for callers"),
    ],
)
def test_what_does_not_go_together_is_told(changes: dict[str, Any], problem: str) -> None:
    """A service without authentication is not opened to others by accident."""
    (found,) = problems_of(Settings(**changes))
    assert problem in found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rest_host": "localhost", "grpc_host": "::1"},
        {"rest_host": "192.0.2.1", "insecure": True},
        {"rest_host": "192.0.2.1", "rest": False},
        {"rest_host": "192.0.2.1", "auth": "required", "policy": "policy.toml"},
        {"rest_host": "192.0.2.1", "auth": "required", "core": "grpc://core:1"},
        {"core": "grpc://core:1", "core_api_key": "trv_x"},
    ],
)
def test_what_goes_together_is_no_problem(changes: dict[str, Any]) -> None:
    """Loopback needs no rights, and neither does a door that is shut."""
    assert problems_of(Settings(**changes)) == []


def test_secrets_that_others_may_read_are_found(tmp_path: Path) -> None:
    """Those that only their owner may read are not."""
    private, public = tmp_path / "private", tmp_path / "public"
    for path, mode in ((private, 0o600), (public, 0o644)):
        path.write_text("amqp://user:secret@host/")
        path.chmod(mode)
    assert readable_secrets({"TRIVIUM_AMQP_URL_FILE": str(public)}) == [str(public)]
    assert readable_secrets({"TRIVIUM_AMQP_URL_FILE": str(private), "OTHER_FILE": str(public)}) == []


def test_lists_are_separated_by_commas(tmp_path: Path) -> None:
    """And are lists in TOML."""
    origins = ("https://a.example", "https://b.example:8443")
    assert load({}, {"TRIVIUM_REST_CORS_ORIGINS": ", ".join(origins)}).rest_cors_origins == origins
    file = tmp_path / "trivium.toml"
    file.write_text(f"rest_cors_origins = {list(origins)}")
    assert load({}, {}, file).rest_cors_origins == origins
    with pytest.raises(InvalidSettings, match="REST_CORS_ORIGINS"):
        load({}, {"TRIVIUM_REST_CORS_ORIGINS": "https://a.example/path"})
