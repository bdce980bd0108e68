"""The settings: one frozen value, read once from five places and validated whole.

Every field `x_y` is the flag `--x-y`, the variable `TRIVIUM_X_Y`, the secret file named by `TRIVIUM_X_Y_FILE`
and the TOML key `x_y` (or `x-y`); a flag beats the environment, that beats the file, that beats TOML.
"""

import stat
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from core.allowance import Rates
from core.limits import TOPIC, Limits
from core.logs import LogFormat
from core.redaction import secrets_of
from core.telemetry.access import AccessLogMode

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1024)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
SecondsOrOff = Annotated[float, Meta(ge=0, le=86400)]
Rate = Annotated[float, Meta(ge=0)]

#: `https://app.example`: a scheme and a host, perhaps a port, nothing behind it (RFC 6454).
_ORIGIN = r"^https?://[A-Za-z0-9._~\[\]:-]+\Z"

#: `--data-dir` of a store that lives in memory and ends with the process, for tests.
MEMORY = ":memory:"
#: Other names for a variable, where a convention exists.
ALIASES = {"amqp_url": "AMQP_URL"}
#: Signatures of access tokens that can be made with a private key alone, and the kind of key (RFC 7518, 8037, 9864).
#: A list of what is allowed: `none` and HMAC, whose key a verifier could sign with, are not among them (RFC 8725, 3.2).
TOKEN_ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
_TRUE_FALSE = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

#: One of the addresses that `--core` lists.
_CORE = r"(grpcs?|https?)://[^/?#,\s@]+:[0-9]{1,5}"


def _help(text: str) -> Meta:
    return Meta(description=text)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set. Units are in the names; each description says why the default is what it is."""

    rest: Annotated[bool, _help("Serve REST.")] = True
    grpc: Annotated[bool, _help("Serve gRPC.")] = True
    amqp: Annotated[bool, _help("Connect to RabbitMQ.")] = True
    data_dir: Annotated[str, _help("Folder of the log; ':memory:' keeps it in memory, for tests.")] = "./data"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _help("Least level that is logged.")] = "info"
    log_format: Annotated[LogFormat, _help("'auto' is text on a terminal and JSON elsewhere.")] = "auto"
    drain_seconds: Annotated[
        Seconds, _help("Time to finish work after SIGTERM; under the 30 s that orchestrators give.")
    ] = 20.0

    auth: Annotated[
        Literal["none", "required"], _help("'required' lets in who has a credential; 'none' is for loopback.")
    ] = "none"
    policy: Annotated[str, _help("TOML file that says which principal may do what; needed by --auth required.")] = ""
    insecure: Annotated[bool, _help("Allow --auth none on addresses that others can reach.")] = False
    auth_failures: Annotated[
        Positive, _help("Failed authentications a minute and address; more than people mistype, too few to guess.")
    ] = 30
    principal_requests: Annotated[Rate, _help("Operations a second of one principal; 0 is without a bound.")] = 0
    principal_messages: Annotated[Rate, _help("Published messages a second of one principal.")] = 0
    principal_bytes: Annotated[Rate, _help("Published bytes a second of one principal, attributes too.")] = 0
    principal_streams: Annotated[
        Annotated[int, Meta(ge=0)], _help("Open streams and waiting reads of one principal.")
    ] = 0

    token_issuer: Annotated[str, _help("Issuer of access tokens, as their `iss` says it; none are taken without.")] = ""
    token_audience: Annotated[str, _help("What the `aud` of an access token must hold: our name at the issuer.")] = ""
    token_jwks: Annotated[
        str, _help("File or https URL of the issuer's keys; by default its discovery document says where they are.")
    ] = ""
    token_algorithms: Annotated[
        str, _help("Signatures that count, with commas; SHA-256 and its like, which every issuer can make.")
    ] = "RS256,PS256,ES256,EdDSA,Ed25519"  # noqa: S105 - no password
    token_type: Annotated[
        Literal["at+jwt", "jwt"],
        _help("What `typ` says: at+jwt keeps ID tokens out (RFC 9068); jwt is for issuers that can't say it."),
    ] = "at+jwt"  # noqa: S105
    token_leeway_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=60)], _help("How far the issuer's clock may be off; clocks are kept by NTP.")
    ] = 30.0
    token_refresh_seconds: Annotated[
        Seconds, _help("Pause between looks at the issuer's keys; what a withdrawn one signed ends within it.")
    ] = 300.0
    token_stale_seconds: Annotated[
        Seconds, _help("How long keys count while the issuer is away; about as long as its tokens live.")
    ] = 3600.0
    access_log: Annotated[
        AccessLogMode,
        _help("A log line per request, for a share of them, or none: a line costs more than a small request does."),
    ] = "off"
    access_log_rate: Annotated[
        Annotated[float, Meta(gt=0, le=1)], _help("The share that a sampled access log tells of.")
    ] = 0.01

    admin: Annotated[bool, _help("Serve metrics, probes and the log level on a port of their own.")] = True
    admin_host: Annotated[str, _help("Address of the admin listener; it has no rights, so loopback.")] = "127.0.0.1"
    admin_port: Annotated[Port, _help("Port of the admin listener, 0 takes a free one; OpenTelemetry's.")] = 9464
    metrics_topics: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)], _help("Oldest topics with series of their own; the rest is one.")
    ] = 100

    default_topic: Annotated[str, Meta(pattern=f"^{TOPIC.pattern}"), _help("Topic of `get data`.")] = "data"
    greeting: Annotated[str, _help("Answer of `get data` on an empty topic.")] = "Hello from Trivium"

    max_message_bytes: Annotated[Bytes, _help("A message, data and attributes; brokers slow down above 1 MiB.")] = (
        1024 * 1024
    )
    max_attributes_bytes: Annotated[Bytes, _help("All attributes of a message; fits HTTP's header limits.")] = 8 * 1024
    max_extensions: Annotated[Positive, _help("Extension attributes of a message.")] = 32
    max_batch_messages: Annotated[Positive, _help("Messages of one batch.")] = 1000
    max_batch_bytes: Annotated[Bytes, _help("One batch, data and attributes.")] = 4 * 1024 * 1024
    max_topics: Annotated[
        Annotated[int, Meta(ge=1, le=8_000_000)],
        _help("Topics of the log; each costs some 300 bytes of memory, and 2 KB while no queue at RabbitMQ takes it."),
    ] = 250_000
    max_uncommitted_bytes: Annotated[Bytes, _help("Admitted messages that wait for their commit.")] = 64 * 1024 * 1024
    max_streams: Annotated[Positive, _help("Followers and waiting reads of all doors together.")] = 5000
    tail_bytes: Annotated[Bytes, _help("Newest messages kept in memory, shared by all readers.")] = 64 * 1024 * 1024
    commit_seconds: Annotated[Seconds, _help("A commit that takes longer answers `deadline_exceeded`.")] = 30.0

    rest_host: Annotated[str, _help("Address of the REST door; loopback until rights are set up.")] = "127.0.0.1"
    rest_port: Annotated[Port, _help("Port of the REST door; 0 takes a free one.")] = 8080
    rest_cors_origins: Annotated[
        tuple[Annotated[str, Meta(pattern=_ORIGIN)], ...],
        _help("Origins whose pages may call REST from a browser; TOML list, elsewhere separated by commas."),
    ] = ()
    rest_body_bytes: Annotated[Bytes, _help("A request body; above a batch in base64, so that our limits answer.")] = (
        8 * 1024 * 1024
    )
    rest_body_seconds: Annotated[Seconds, _help("Time for a body to arrive; stops slow senders.")] = 30.0
    rest_inflight_bytes: Annotated[Bytes, _help("Request bodies in memory at once, over all connections.")] = (
        64 * 1024 * 1024
    )
    rest_comment_seconds: Annotated[Seconds, _help("Pause between comments on an idle SSE stream.")] = 15.0

    grpc_host: Annotated[str, _help("Address of the gRPC door; loopback until rights are set up.")] = "127.0.0.1"
    grpc_port: Annotated[Port, _help("Port of the gRPC door; 0 takes a free one.")] = 50051
    grpc_receive_bytes: Annotated[Bytes, _help("A received gRPC message; above our limits, so that ours answer.")] = (
        8 * 1024 * 1024
    )
    grpc_rpcs: Annotated[
        Positive,
        _help("RPCs at once, streams included; each may buffer a message, and nothing else bounds these together."),
    ] = 2000

    tls_cert: Annotated[
        str, _help("PEM file of the certificate of REST and gRPC; without one they speak plain text.")
    ] = ""
    tls_key: Annotated[str, _help("PEM file of its private key, which has no password.")] = ""
    tls_client_ca: Annotated[
        str, _help("PEM file of authorities; every client then needs a certificate of theirs.")
    ] = ""
    tls_min_version: Annotated[
        Literal["1.2", "1.3"], _help("Least version of TLS; all of today's clients have 1.3.")
    ] = "1.3"

    amqp_ca: Annotated[str, _help("PEM file of the broker's authorities for amqps; else those of the system.")] = ""
    amqp_cert: Annotated[
        str, _help("PEM file of our certificate for amqps; it logs in (SASL EXTERNAL) where the URL names no user.")
    ] = ""
    amqp_key: Annotated[str, _help("PEM file of its private key, which has no password.")] = ""
    amqp_url: Annotated[str, Meta(pattern=r"^amqps?://[^/?#\s]+"), _help("RabbitMQ; `AMQP_URL` is read too.")] = (
        "amqp://guest:guest@127.0.0.1:5672/"
    )
    amqp_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,100}\Z"), _help("First part of queue names.")] = (
        "trivium"
    )
    amqp_principal: Annotated[
        str, _help("Principal of messages without a user_id, with --auth required; none refuses them.")
    ] = ""
    amqp_declare: Annotated[bool, _help("Declare exchanges and queues; else only check that they exist.")] = True
    amqp_prefetch: Annotated[
        Annotated[int, Meta(ge=1, le=65535)],
        _help("Unacknowledged inbox messages: a batch that is committed, and the next."),
    ] = 2000
    amqp_rpc_prefetch: Annotated[
        Annotated[int, Meta(ge=1, le=65535)], _help("AMQP RPCs at once, waiting reads included.")
    ] = 100
    amqp_confirm_seconds: Annotated[Seconds, _help("A broker that confirms later counts as lost.")] = 30.0
    amqp_retry_seconds: Annotated[Seconds, _help("Longest pause between attempts to connect.")] = 5.0

    relay_from: Annotated[
        Literal["start", "now"], _help("Where the relay begins in a topic that it never relayed.")
    ] = "start"
    relay_unroutable: Annotated[
        Literal["hold", "skip"], _help("What to do with messages no queue takes: hold the topic, or skip them.")
    ] = "hold"
    relay_window_messages: Annotated[Positive, _help("Unconfirmed messages in flight; hides a round trip.")] = 1000
    relay_window_bytes: Annotated[Bytes, _help("Unconfirmed bytes in flight.")] = 8 * 1024 * 1024
    relay_probe_seconds: Annotated[
        Seconds, _help("Longest pause between probes of a held topic: a new queue gets its messages within it.")
    ] = 5.0

    core: Annotated[
        str,
        Meta(pattern=rf"^({_CORE}(,{_CORE})*)?\Z"),
        _help(
            "Serve a core in another process, and have no store: grpc[s]://host:port and http[s]://host:port, "
            "separated by commas, the preferred first."
        ),
    ] = ""
    core_seconds: Annotated[Seconds, _help("Time for a call to the core where the caller named none.")] = 10.0
    core_attempt_seconds: Annotated[
        Seconds, _help("Time for one address to answer; leaves time for others and a repetition.")
    ] = 3.0
    core_stale_seconds: Annotated[
        SecondsOrOff, _help("Age up to which a last answer is repeated while the core is away; 0: none is.")
    ] = 60.0
    core_hedge_seconds: Annotated[
        SecondsOrOff, _help("Ask the next address too if a read takes longer; 0: never, since it adds load.")
    ] = 0.0
    core_api_key: Annotated[str, _help("API key for calls of callers that bring no credential.")] = ""
    core_tls_ca: Annotated[
        str, _help("PEM file of who vouches for the core; else the system's (https) or gRPC's own (grpcs).")
    ] = ""
    core_tls_cert: Annotated[str, _help("PEM file of the certificate shown to the core, for mutual TLS.")] = ""
    core_tls_key: Annotated[str, _help("PEM file of the key of that certificate.")] = ""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those of `token_algorithms`."""
        return tuple(name.strip() for name in self.token_algorithms.split(","))

    @property
    def rates(self) -> Rates:
        return Rates(
            requests=self.principal_requests,
            messages=self.principal_messages,
            bytes=self.principal_bytes,
            streams=self.principal_streams,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be logged, in every form in which it might be."""
        return (*secrets_of(self.amqp_url), self.core_api_key)

    @property
    def limits(self) -> Limits:
        return Limits(
            message_bytes=self.max_message_bytes,
            attributes_bytes=self.max_attributes_bytes,
            extensions=self.max_extensions,
            batch_messages=self.max_batch_messages,
            batch_bytes=self.max_batch_bytes,
        )


def problems_of(settings: Settings) -> list[str]:
    """What does not go together, in sentences."""
    problems = []
    if not (settings.rest or settings.grpc or settings.amqp):
        problems.append("no door is enabled: use at least one of --rest, --grpc, --amqp")
    if settings.auth == "none":
        for door, host in (("rest", settings.rest_host), ("grpc", settings.grpc_host)):
            if getattr(settings, door) and not _is_loopback(host) and not settings.insecure:
                problems.append(
                    f"--{door}-host {host} can be reached by others, and --auth is none: anybody could read and "
                    "publish. Use --auth required, or --insecure where something else keeps strangers away"
                )
    elif not settings.policy and not settings.core:
        problems.append("--auth required needs --policy, the file that says who may do what")
    return problems + (_edge_problems(settings) if settings.core else _token_problems(settings))


def _edge_problems(settings: Settings) -> list[str]:
    problems = [
        f"--{name.replace('_', '-')} is for the core, which judges credentials: it can't be had with --core"
        for name in ("policy", "token_issuer", "token_audience", "token_jwks")
        if getattr(settings, name)
    ]
    if settings.auth == "required" and settings.core_api_key:
        problems.append("--core-api-key is for callers without a credential, whom --auth required turns away")
    if not any(address.startswith(("grpcs:", "https:")) for address in settings.core.split(",")):
        problems += [
            f"--{name.replace('_', '-')} takes an address of --core that begins with grpcs:// or https://"
            for name in ("core_tls_ca", "core_tls_cert", "core_tls_key")
            if getattr(settings, name)
        ]
    if bool(settings.core_tls_cert) != bool(settings.core_tls_key):
        problems.append("--core-tls-cert and --core-tls-key: one is missing beside the other")
    return problems


def _token_problems(settings: Settings) -> list[str]:
    problems = [
        f"--token-algorithms: {name[:20]!r} is none of {', '.join(TOKEN_ALGORITHMS)}"
        for name in settings.algorithms
        if name not in TOKEN_ALGORITHMS
    ]
    if not settings.token_issuer:
        if settings.token_audience or settings.token_jwks:
            problems.append("--token-audience and --token-jwks need --token-issuer, who issues the tokens")
        return problems
    if settings.auth == "none":
        problems.append("--token-issuer needs --auth required: with none, nobody is asked for a token")
    if not settings.token_audience:
        problems.append("--token-issuer needs --token-audience: tokens for others would count here too")
    source = settings.token_jwks or settings.token_issuer
    if not settings.token_jwks or "://" in source:
        if not is_trustworthy(source):
            flag = "--token-jwks" if settings.token_jwks else "--token-issuer, where --token-jwks is not given,"
            problems.append(f"{flag} must be an https URL without query and fragment; http is for loopback")
    elif not Path(source).is_file():
        problems.append(f"--token-jwks: there is no file {source}")
    return problems


def is_trustworthy(url: str) -> bool:
    """Whether nobody in between can change what comes from there."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class InvalidSettings(Exception):
    """Every problem found, each naming where the value came from and never the value of a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Option(Struct, frozen=True):
    """One setting as a command line sees it."""

    name: str
    default: Any
    description: str
    is_switch: bool
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def options() -> list[Option]:
    """All settings, in the order of their declaration."""
    types = get_type_hints(Settings, include_extras=True)
    return [_option(field.name, field.default, types[field.name]) for field in msgspec.structs.fields(Settings)]


def _option(name: str, default: Any, kind: Any) -> Option:
    """`kind` is Annotated[plain type, Meta(...), ...]: get_type_hints has made nested ones flat."""
    plain = get_args(kind)[0]
    texts = [meta.description for meta in kind.__metadata__ if meta.description]
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    return Option(name, default, texts[-1], plain is bool, choices)


def load(flags: Mapping[str, Any], environment: Mapping[str, str], toml: Path | None = None) -> Settings:
    """Settings from the command line's values, the environment and TOML; `InvalidSettings` lists all problems."""
    problems: list[str] = []
    from_toml = _read_toml(toml, problems) if toml is not None else {}
    types = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    for name, kind in types.items():
        found = _find(name, flags, environment, from_toml, problems)
        if found is None:
            continue
        origin, value = found
        plain = get_args(kind)[0]
        if isinstance(value, str) and value.lower() in _TRUE_FALSE and plain is bool:
            value = _TRUE_FALSE[value.lower()]
        if isinstance(value, str) and get_origin(plain) is tuple:
            value = [one.strip() for one in value.split(",") if one.strip()]
        try:
            values[name] = msgspec.convert(value, kind, strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            problems.append(f"{origin}: {error}")
    if values.get("core"):
        _check_edge(values, problems)
    problems.extend(f"{toml}: no setting is named {name!r}" for name in from_toml if name not in types)
    if problems:
        raise InvalidSettings(problems)
    return Settings(**values)


def _check_edge(values: dict[str, Any], problems: list[str]) -> None:
    """The AMQP door works on the store, so it is where the store is; elsewhere it is off unless somebody insists."""
    if values.setdefault("amqp", False):
        problems.append("amqp: works on the store, so it can't be had with --core; use --no-amqp here, --amqp there")
    problems.extend(
        f"core: {address} has no port, these go up to 65535"
        for address in values["core"].split(",")
        if int(address.rpartition(":")[2]) > 65535
    )


def _find(
    name: str,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    from_toml: Mapping[str, Any],
    problems: list[str],
) -> tuple[str, Any] | None:
    """Where the value of `name` comes from, and the value; None for the default."""
    if flags.get(name) is not None:
        return f"--{name.replace('_', '-')}", flags[name]
    variable = f"TRIVIUM_{name.upper()}"
    for candidate in filter(None, (variable, ALIASES.get(name))):
        if candidate in environment:
            return candidate, environment[candidate]
    secret = f"{variable}_FILE"
    if secret in environment:
        try:
            return secret, Path(environment[secret]).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problems.append(f"{secret}: can't read the file it names: {reason}")  # the name may be the secret itself
            return None
    return (name, from_toml[name]) if name in from_toml else None


def readable_secrets(environment: Mapping[str, str]) -> list[str]:
    """The files that variables `TRIVIUM_X_Y_FILE` name and that other users may read."""
    names = {f"TRIVIUM_{field.name.upper()}_FILE" for field in msgspec.structs.fields(Settings)}
    paths = [Path(environment[name]) for name in sorted(names) if name in environment]
    return [str(path) for path in paths if path.exists() and path.stat().st_mode & stat.S_IROTH]


def _read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return {name.replace("-", "_"): value for name, value in tomllib.load(file).items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error}")
        return {}
