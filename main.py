"""Starts Trivium: flags, signals, order of start and stop, exit codes."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Protocol

import apsw
import structlog

from container import Container
from core import VERSION
from core.errors import Unavailable
from core.gate import PolicyGate
from core.logs import configure_logging
from core.policy import InvalidPolicy, read_policy
from core.ports import MessageService, Transport
from core.settings import MEMORY, InvalidSettings, Settings, load, options, problems_of, readable_secrets
from core.stores.groups import StoreBroken
from core.stores.lock import StoreLocked
from core.stores.schema import UnknownSchema
from core.telemetry import tracing

log = structlog.get_logger("trivium")

EXIT_OK, EXIT_CANNOT_RUN, EXIT_USAGE = 0, 1, 2
#: What a door needs beside the base installation; each is an extra of that name.
LIBRARIES = {
    "rest": ("starlette", "hypercorn", "h2", "httptools"),
    "grpc": ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google.protobuf"),
    "amqp": ("pika",),
}
_METAVARS = {int: "NUMBER", float: "NUMBER", tuple: "A,B"}
#: Collections of the youngest generation cost a tenth of the throughput at Python's default of 700.
_GC_THRESHOLD = 50_000


class Part(Protocol):
    """What lives as long as the service and may die before it."""

    def wait(self) -> Coroutine[Any, Any, None]: ...


class Running:
    """A Trivium that is up: its service, and its doors by name."""

    def __init__(self, service: MessageService) -> None:
        self.service = service
        self.doors: dict[str, Transport] = {}
        self.admin = ""  # where the admin listener is, if it is
        self.parts: list[Part] = []


@asynccontextmanager
async def running(container: Container) -> AsyncIterator[Running]:
    """Opens everything in order, and closes it in reverse: intakes first, the store last.

    Entering returns once every door listens. A broker that is away does not hold it up.
    """
    settings = container.settings()
    health = container.health()
    metrics = container.metrics()
    health.start()
    async with AsyncExitStack() as stack:
        address = await _open_admin(stack, container) if settings.admin else ""
        if (spans := container.tracing()) is not None:
            await stack.enter_async_context(spans)
        lag = await stack.enter_async_context(container.loop_lag())
        base = [await stack.enter_async_context(part) for part in _base(container, settings)]
        service = container.service()
        up = Running(service)
        up.admin = address
        up.parts += base
        if settings.data_dir != MEMORY and not settings.core:
            await stack.enter_async_context(container.control())
        for measured in (health, lag, *base, service, container.publisher() if settings.amqp else None):
            metrics.add(measured)
        try:
            for provider in _parts(container, settings):
                part = provider()
                if part is None:
                    continue
                await stack.enter_async_context(part)
                metrics.add(part)
                up.parts.append(part)
                if (opened := getattr(part, "address", None)) is not None:
                    up.doors[part.name] = part
                    log.info("door is open", door=part.name, address=opened)
                    stack.callback(log.info, "door is closing", door=part.name)
            health.started()
            yield up
        finally:
            health.drain()
            service.drain()


def _reloads(container: Container) -> list[Callable[[], None]]:
    """What reads its files again on SIGHUP; each tells the log how that went."""
    found: list[Callable[[], None]] = []
    if (certificates := container.certificates()) is not None:
        found.append(certificates.reload)
    settings = container.settings()
    if settings.auth == "required" and not settings.core:
        found.append(partial(_reload_policy, Path(settings.policy), container.gate()))
    return found


def _reload(reloads: Sequence[Callable[[], None]]) -> None:
    for reload in reloads:
        reload()


def _reload_policy(path: Path, gate: PolicyGate) -> None:
    try:
        policy = read_policy(path)
    except InvalidPolicy as error:
        log.error("the new policy can't be used, the old one stays", reason=str(error))
        return
    gate.reload(policy)
    log.info("policy is reloaded", principals=len(policy.principals))


async def _open_admin(stack: AsyncExitStack, container: Container) -> str:
    """First of all, so that probes are answered while the store opens, and last to close."""
    admin = await stack.enter_async_context(container.admin())
    log.info("admin listener is open", address=admin.address)
    address: str = admin.address
    return address


def _base(container: Container, settings: Settings) -> Iterator[Any]:
    """What the service stands on: a store and who may use it, or the way to a core that has both."""
    if settings.core:
        yield container.edge()
        return
    yield container.log()
    yield container.keys()
    if (tokens := container.tokens()) is not None:
        yield tokens


def _parts(container: Container, settings: Settings) -> Iterator[Any]:
    if settings.amqp:
        yield from (container.broker, container.relay, container.inbox, container.rpc)
    if settings.tls_cert and (settings.rest or settings.grpc):
        yield container.certificates
    if settings.rest:
        yield container.rest
    if settings.grpc:
        yield container.grpc


async def serve(container: Container, process: ExitStack) -> int:
    """Serve until a signal comes or a part dies; the answer is the exit code.

    Once it is time to end, the process does within `drain_seconds`, unless `process` is closed before.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop, number)
    if reloads := _reloads(container):
        loop.add_signal_handler(signal.SIGHUP, _reload, reloads)
    drain_seconds = container.settings().drain_seconds
    try:
        async with running(container) as up:
            log.info("trivium is up", version=VERSION, doors=list(up.doors))
            gc.freeze()  # without a collection first: it would look at 46,000 objects for 9 ms, to find five
            gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
            died = await _first_end(up.parts, stop)
            log.info("trivium is stopping", within_seconds=drain_seconds)
            process.callback(_end_within(drain_seconds).cancel)
    except (OSError, StoreLocked, UnknownSchema, StoreBroken, Unavailable, apsw.Error) as error:
        log.critical("trivium can't run", reason=str(error))
        return EXIT_CANNOT_RUN
    log.info("trivium has stopped")
    return EXIT_CANNOT_RUN if died else EXIT_OK


async def _first_end(parts: Sequence[Part], stop: asyncio.Event) -> bool:
    """Wait for the stop signal, or for the first part that ends by itself; whether the latter came first."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    waits = {asyncio.create_task(part.wait(), name=type(part).__name__) for part in parts}
    done, pending = await asyncio.wait({stopped, *waits}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending) if pending else None
    for task in done - {stopped}:
        log.critical("a part has ended", part=task.get_name(), exc_info=task.exception())
    return bool(done - {stopped})


def _signalled(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():
        _give_up(f"second signal ({signal.Signals(number).name})")
    stop.set()


def _end_within(seconds: float) -> threading.Timer:
    """On a thread, for the loop may hang too: to close it waits for names that are looked up."""
    timer = threading.Timer(seconds, _give_up, (f"not drained within {seconds:g} s",))
    timer.daemon = True
    timer.start()
    return timer


def _give_up(reason: str) -> NoReturn:
    log.critical("trivium ends at once", reason=reason)
    sys.stderr.flush()
    os._exit(EXIT_CANNOT_RUN)


def parser() -> argparse.ArgumentParser:
    """The command line of the service."""
    found = argparse.ArgumentParser(
        prog="trivium",
        description="One durable message service with three doors: REST, gRPC and AMQP.",
        allow_abbrev=False,
        parents=[_settings_flags()],
        epilog="Each --x-y is also TRIVIUM_X_Y, TRIVIUM_X_Y_FILE and the key x_y in the file of --config. "
        "With the same flags, `trivium keys` makes, lists and revokes API keys, and `trivium healthcheck` asks a "
        "running one whether it is ready.",
    )
    found.add_argument("--check-config", action="store_true", help="Check the configuration, and end.")
    found.add_argument("--version", action="version", version=f"trivium {VERSION}")
    return found


def _settings_flags() -> argparse.ArgumentParser:
    """What the service and its commands have in common: one flag per setting."""
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--config", type=Path, metavar="FILE.toml", help="Read settings from a TOML file.")
    for option in options():
        text = f"{option.description} Default: {option.default}".replace("%", "%%")
        if option.is_switch:
            found.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = "|".join(option.choices) or _METAVARS.get(type(option.default), "TEXT")
            found.add_argument(option.flag, metavar=metavar, help=text)
    return found


def configure(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, bool]:
    """The settings, and whether only they are to be checked. Raises `InvalidSettings`."""
    given = vars(parser().parse_args(arguments))
    settings = _settings(given, environment)
    problems = _missing_for_the_core(settings)
    problems += [
        f"{door}: {library} is not installed; install the extra `{door}`, or use --no-{door}"
        for door, libraries in LIBRARIES.items()
        if getattr(settings, door)
        for library in libraries
        if not _is_installed(library)
    ]
    problems += _tls_problems(settings)
    if settings.token_issuer and not _is_installed("joserfc"):
        problems.append("token_issuer: joserfc is not installed; install the extra `oauth`")
    problems += problems_of(settings)
    problems += tracing.problems(environment)
    if settings.policy:
        try:
            read_policy(Path(settings.policy))
        except InvalidPolicy as error:
            problems.append(str(error))
    if problems:
        raise InvalidSettings(problems)
    return settings, given["check_config"]


def _settings(given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    toml = given["config"] or environment.get("TRIVIUM_CONFIG")
    return load(given, environment, Path(toml) if toml else None)


def _tls_problems(settings: Settings) -> list[str]:
    """What is wrong with the files of `tls_*`, `amqp_*` and `core_tls_*`; they are looked at where they are used."""
    of_doors = any((settings.tls_cert, settings.tls_key, settings.tls_client_ca))
    own = any((settings.amqp_ca, settings.amqp_cert, settings.amqp_key))
    of_broker = settings.amqp and (own or settings.amqp_url.startswith("amqps:"))
    of_core = settings.core and any((settings.core_tls_ca, settings.core_tls_cert, settings.core_tls_key))
    if (of_doors or of_broker or of_core) and not _is_installed("cryptography"):
        setting = "tls_cert" if of_doors else "amqp_url" if of_broker else "core_tls_*"
        return [f"{setting}: cryptography is not installed; install the extra `tls`"]
    found: list[str] = []
    if of_doors:
        found += import_module("transports.tls.files").server_problems(settings)
    if of_broker:
        found += import_module("transports.amqp.tls").problems(settings)
    if of_core:
        found += import_module("transports.tls.files").core_problems(settings)
    return found


def _missing_for_the_core(settings: Settings) -> list[str]:
    """Problems of `--core` with the libraries that its protocols take."""
    schemes = {address.partition(":")[0].removesuffix("s") for address in settings.core.split(",") if address}
    needed = {"grpc": ("grpc", LIBRARIES["grpc"]), "http": ("remote", ("aiohttp",))}
    return [
        f"core: {library} is not installed; install the extra `{needed[scheme][0]}`, or use no {scheme}:// address"
        for scheme in sorted(schemes)
        for library in needed[scheme][1]
        if not _is_installed(library)
    ]


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _keys(arguments: Sequence[str]) -> int:
    command = import_module("keys")
    given = command.parser(_settings_flags()).parse_args(arguments)
    return command.run(given, _settings(vars(given), os.environ))  # type: ignore[no-any-return]


def _healthcheck(arguments: Sequence[str]) -> int:
    settings = _settings(vars(parser().parse_args(arguments)), os.environ)  # a running service has judged them
    return import_module("healthcheck").check(settings)  # type: ignore[no-any-return]


#: What `trivium NAME ...` does instead of serving; each takes the arguments after its name, and answers the exit code.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"healthcheck": _healthcheck, "keys": _keys}


def run(arguments: Sequence[str] | None = None) -> int:
    """The whole program; the answer is the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and (command := COMMANDS.get(arguments[0])):
            return command(arguments[1:])
        settings, check_only = configure(arguments, os.environ)
        if check_only:
            print("trivium: the configuration is valid")
            return EXIT_OK
        configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets)
        for exposed in readable_secrets(os.environ):
            log.warning("a secret can be read by every user of this machine: chmod o-r", file=exposed)
        if settings.insecure and settings.auth == "none":
            log.warning("authentication is off and --insecure is given: whoever reaches a door may read and publish")
        _allow_many_connections()
        with ExitStack() as process, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(Container(settings=settings, environment=os.environ), process))
    except InvalidSettings as error:
        for problem in error.problems:
            print(f"trivium: {problem}", file=sys.stderr)
        return EXIT_USAGE


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1,024 for the sake of select(2), which nothing here uses."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Any:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(run())
