"""The composition root: which adapter plugs into which port."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from core import VERSION
from core.health import Health
from core.ports import SystemClock
from core.relay import Relay, RelaySettings
from core.remote.links import Link
from core.remote.service import Edge, RemoteService
from core.service import LocalService
from core.settings import Settings
from core.stores.sqlite import LogBounds, SqliteLog

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


class Container(containers.DeclarativeContainer):
    """Builds objects, once each and without side effects; `main.running` opens and closes them.

    Tests override providers on an instance before its first use: `container.log.override(...)`. A part that
    is overridden with `providers.Object(None)` is left out.
    """

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)

    clock = providers.Singleton(SystemClock)
    health = providers.Singleton(Health)
    log = providers.Singleton(
        SqliteLog, settings.provided.data_dir, providers.Factory(LogBounds.of, settings), clock, health
    )
    edge = providers.Singleton(Edge, providers.Callable(_links, settings), health, settings)
    service = providers.Selector(
        providers.Callable(lambda settings: "remote" if settings.core else "local", settings),
        local=providers.Singleton(LocalService.of, log, settings),
        remote=providers.Singleton(RemoteService, edge),
    )

    broker = providers.Singleton(_imported_later("transports.amqp.connection", "Broker"), settings, health)
    publisher = providers.Singleton(_imported_later("transports.amqp.publisher", "PikaPublisher"), broker, settings)
    relay = providers.Singleton(Relay, log, publisher, providers.Factory(RelaySettings.of, settings), health)
    inbox = providers.Singleton(_imported_later("transports.amqp.inbox", "Inbox"), broker, service, settings, health)
    rpc = providers.Singleton(_imported_later("transports.amqp.rpc", "Rpc"), broker, service, settings)

    rest = providers.Singleton(_imported_later("transports.rest.door", "RestDoor"), service, health, settings, VERSION)
    grpc = providers.Singleton(_imported_later("transports.grpc.door", "GrpcDoor"), service, health, settings)
