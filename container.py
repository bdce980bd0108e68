"""The composition root: which adapter plugs into which port."""

import ssl
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from core import VERSION
from core.administration import KeyAdministration
from core.gate import OpenGate, PolicyGate
from core.health import Health
from core.keys import KeyRing
from core.policy import Policy, read_policy
from core.ports import MessageService, SystemClock
from core.relay import Relay, RelaySettings
from core.remote.links import Link
from core.service import LocalService
from core.settings import Settings
from core.stores.keys import SqliteKeys
from core.stores.sqlite import LogBounds, SqliteLog
from core.telemetry import tracing
from core.telemetry.loop_lag import LoopLag
from core.telemetry.metrics import Metrics

# dependency-injector imports these where they are installed, for a wiring that is not used here: a door that is
# disabled would cost its library, and every start 20 to 80 ms.
_UNWIRED = [name for name in ("fastapi", "starlette", "werkzeug") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_UNWIRED))  # type: ignore[arg-type]  # None makes an import fail
from dependency_injector import containers, providers  # noqa: E402

for _name in _UNWIRED:
    del sys.modules[_name]


def _imported_later(module: str, name: str) -> Callable[..., Any]:
    """Builds `module.name`. dependency-injector resolves its own string imports too early for a disabled door."""

    def build(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return build


def _links(settings: Settings) -> dict[str, Link]:
    """The way to each address of `--core`; a protocol that none has is not imported."""
    modules = {"grpc": ("transports.grpc.remote", "GrpcLink"), "http": ("transports.rest.remote", "HttpLink")}
    return {
        address: _imported_later(*modules[address.partition(":")[0].removesuffix("s")])(address, settings)
        for address in settings.core.split(",")
    }


def _policy(path: str) -> Policy:
    return read_policy(Path(path)) if path else Policy()


def _certificates(settings: Settings, health: Health) -> Any:
    """What REST and gRPC serve; None without TLS."""
    if not settings.tls_cert:
        return None
    certificates = import_module("transports.tls.certificates")
    certificates.hold_grpc_to(settings.tls_min_version)
    return certificates.Certificates(settings, health)


def _context(certificates: Any) -> ssl.SSLContext | None:
    return certificates.context if certificates is not None else None


def _tokens(settings: Settings, health: Health) -> Any:
    """Whoever takes no access tokens needs no library for them."""
    return import_module("core.tokens").AccessTokens.of(settings, health) if settings.token_issuer else None


def _traced(name: str) -> Callable[..., Any]:
    """Wraps an adapter in the class `name` of `core.telemetry.traced`; without tracing it stays as it is."""

    def wrap(adapter: Any, tracing: Any, settings: Settings) -> Any:
        if tracing is None:
            return adapter
        return getattr(import_module("core.telemetry.traced"), name)(adapter, tracing, settings.limits)

    return wrap


def _tracer(tracing: Any, settings: Settings) -> Callable[[MessageService], Any]:
    """The same for services that are made later."""
    return lambda service: _traced("TracedService")(service, tracing, settings)


def _observer(tracing: Any) -> Any:
    return None if tracing is None else tracing.committed


class Container(containers.DeclarativeContainer):
    """Builds objects, once each and without side effects; `main.running` opens and closes them.

    Tests override providers on an instance before its first use: `container.log.override(...)`. A part that
    is overridden with `providers.Object(None)` is left out.
    """

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)

    #: Where OpenTelemetry's variables are; `main` gives those of the process.
    environment: providers.Provider[Any] = providers.Object({})
    tracing = providers.Singleton(tracing.tracing, environment)

    clock = providers.Singleton(SystemClock)
    health = providers.Singleton(Health)
    log = providers.Singleton(
        SqliteLog,
        settings.provided.data_dir,
        providers.Factory(LogBounds.of, settings),
        clock,
        health,
        providers.Callable(_observer, tracing),
    )
    #: Where `--core` names another process; else nothing of it is imported.
    edge = providers.Singleton(
        _imported_later("core.remote.service", "Edge"), providers.Callable(_links, settings), health, settings
    )
    remote = providers.Singleton(_imported_later("core.remote.service", "RemoteService"), edge)
    service = providers.Selector(
        providers.Callable(lambda settings: "remote" if settings.core else "local", settings),
        local=providers.Singleton(LocalService.of, log, settings),
        remote=remote,
    )
    served = providers.Singleton(_traced("TracedService"), service, tracing, settings)

    metrics = providers.Singleton(Metrics)
    loop_lag = providers.Singleton(LoopLag)
    admin = providers.Singleton(
        _imported_later("transports.admin.listener", "AdminListener"), metrics, health, settings
    )

    policy = providers.Singleton(_policy, settings.provided.policy)
    keys = providers.Singleton(
        KeyRing, providers.Singleton(SqliteKeys, settings.provided.data_dir), principals=policy.provided.principals
    )
    tokens = providers.Singleton(_tokens, settings, health)
    gate = providers.Selector(
        providers.Callable(lambda settings: "core" if settings.core else settings.auth, settings),
        core=providers.Singleton(
            _imported_later("core.remote.gate", "ForwardingGate"),
            *(remote, settings, providers.Callable(_tracer, tracing, settings)),
        ),
        none=providers.Singleton(OpenGate, served, settings),
        required=providers.Singleton(PolicyGate, served, policy, keys, tokens, settings),
    )

    control = providers.Singleton(
        _imported_later("transports.control.server", "ControlSocket"),
        providers.Singleton(KeyAdministration, keys),
        settings.provided.data_dir,
    )

    broker = providers.Singleton(_imported_later("transports.amqp.connection", "Broker"), settings, health)
    publisher = providers.Singleton(_imported_later("transports.amqp.publisher", "PikaPublisher"), broker, settings)
    relayed = providers.Singleton(_traced("TracedPublisher"), publisher, tracing, settings)
    relay = providers.Singleton(Relay, log, relayed, providers.Factory(RelaySettings.of, settings), health)
    inbox = providers.Singleton(_imported_later("transports.amqp.inbox", "Inbox"), broker, gate, settings, health)
    rpc = providers.Singleton(_imported_later("transports.amqp.rpc", "Rpc"), broker, gate, settings)

    certificates = providers.Singleton(_certificates, settings, health)
    rest = providers.Singleton(
        _imported_later("transports.rest.door", "RestDoor"),
        *(gate, health, settings, VERSION),
        tls=providers.Callable(_context, certificates),
    )
    grpc = providers.Singleton(
        _imported_later("transports.grpc.door", "GrpcDoor"), gate, health, settings, certificates
    )
