"""The composition root: which adapter plugs into which port."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from core import VERSION
from core.health import Health
from core.ports import SystemClock
from core.relay import Relay, RelaySettings
from core.service import LocalService
from core.settings import Settings
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


def _traced(name: str) -> Callable[..., Any]:
    """Wraps an adapter in the class `name` of `core.telemetry.spans`; without tracing it stays as it is."""

    def wrap(adapter: Any, tracing: Any, settings: Settings, **how: Any) -> Any:
        if tracing is None:
            return adapter
        return getattr(import_module("core.telemetry.spans"), name)(adapter, tracing, settings.limits, **how)

    return wrap


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
    service = providers.Singleton(LocalService.of, log, settings)
    served = providers.Singleton(_traced("TracedService"), service, tracing, settings, inbox=False)
    fed = providers.Singleton(_traced("TracedService"), service, tracing, settings, inbox=True)

    metrics = providers.Singleton(Metrics)
    loop_lag = providers.Singleton(LoopLag)
    admin = providers.Singleton(
        _imported_later("transports.admin.listener", "AdminListener"), metrics, health, settings
    )

    broker = providers.Singleton(_imported_later("transports.amqp.connection", "Broker"), settings, health)
    publisher = providers.Singleton(_imported_later("transports.amqp.publisher", "PikaPublisher"), broker, settings)
    relayed = providers.Singleton(_traced("TracedPublisher"), publisher, tracing, settings)
    relay = providers.Singleton(Relay, log, relayed, providers.Factory(RelaySettings.of, settings), health)
    inbox = providers.Singleton(_imported_later("transports.amqp.inbox", "Inbox"), broker, fed, settings, health)
    rpc = providers.Singleton(_imported_later("transports.amqp.rpc", "Rpc"), broker, served, settings)

    rest = providers.Singleton(_imported_later("transports.rest.door", "RestDoor"), served, health, settings, VERSION)
    grpc = providers.Singleton(_imported_later("transports.grpc.door", "GrpcDoor"), served, health, settings)
