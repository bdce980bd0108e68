"""Starts Trivium: flags, signals, order of start and stop, exit codes."""

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Protocol

import apsw
import structlog

from container import Container
from core import VERSION
from core.logs import configure_logging
from core.ports import MessageService, Transport
from core.settings import InvalidSettings, Settings, load, options
from core.stores.groups import StoreBroken
from core.stores.lock import StoreLocked
from core.stores.schema import UnknownSchema

log = structlog.get_logger("trivium")

EXIT_OK, EXIT_CANNOT_RUN, EXIT_USAGE = 0, 1, 2
#: What a door needs beside the base installation; each is an extra of that name.
LIBRARIES = {
    "rest": ("starlette", "hypercorn"),
    "grpc": ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google.protobuf"),
    "amqp": ("pika",),
}
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
        self.parts: list[Part] = []


@asynccontextmanager
async def running(container: Container) -> AsyncIterator[Running]:
    """Opens everything in order, and closes it in reverse: intakes first, the store last.

    Entering returns once every door listens. A broker that is away does not hold it up.
    """
    settings = container.settings()
    health = container.health()
    async with AsyncExitStack() as stack:
        base: Part = await stack.enter_async_context(container.edge() if settings.core else container.log())
        service = container.service()
        up = Running(service)
        up.parts.append(base)
        try:
            for provider in _parts(container, settings):
                part = provider()
                if part is None:
                    continue
                await stack.enter_async_context(part)
                up.parts.append(part)
                if (address := getattr(part, "address", None)) is not None:
                    up.doors[part.name] = part
                    log.info("door is open", door=part.name, address=address)
            yield up
        finally:
            health.drain()
            service.drain()


def _parts(container: Container, settings: Settings) -> Iterator[Any]:
    if settings.amqp:
        yield from (container.broker, container.relay, container.inbox, container.rpc)
    if settings.rest:
        yield container.rest
    if settings.grpc:
        yield container.grpc


async def serve(container: Container) -> int:
    """Serve until a signal comes or a part dies; the answer is the exit code."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop, number)
    drain_seconds = container.settings().drain_seconds
    try:
        async with running(container) as up:
            log.info("trivium is up", version=VERSION, doors=list(up.doors))
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
            died = await _first_end(up.parts, stop)
            log.info("trivium is stopping", within_seconds=drain_seconds)
            watchdog = loop.call_later(drain_seconds, _give_up, f"not drained within {drain_seconds:g} s")
        watchdog.cancel()
    except (OSError, StoreLocked, UnknownSchema, StoreBroken, apsw.Error) as error:
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


def _give_up(reason: str) -> NoReturn:
    log.critical("trivium ends at once", reason=reason)
    sys.stderr.flush()
    os._exit(EXIT_CANNOT_RUN)


def parser() -> argparse.ArgumentParser:
    """The command line: one flag per setting, and what only makes sense there."""
    found = argparse.ArgumentParser(
        prog="trivium",
        description="One durable message service with three doors: REST, gRPC and AMQP.",
        allow_abbrev=False,
        epilog="Each --x-y is also TRIVIUM_X_Y, TRIVIUM_X_Y_FILE and the key x_y in the file of --config.",
    )
    found.add_argument("--config", type=Path, metavar="FILE.toml", help="Read settings from a TOML file.")
    found.add_argument("--check-config", action="store_true", help="Check the configuration, and end.")
    found.add_argument("--version", action="version", version=f"trivium {VERSION}")
    for option in options():
        text = f"{option.description} Default: {option.default}".replace("%", "%%")
        if option.is_switch:
            found.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = "|".join(option.choices) or type(option.default).__name__.upper()
            found.add_argument(option.flag, metavar=metavar, help=text)
    return found


def configure(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, bool]:
    """The settings, and whether only they are to be checked. Raises `InvalidSettings`."""
    given = vars(parser().parse_args(arguments))
    toml = given.pop("config") or environment.get("TRIVIUM_CONFIG")
    check_only = given.pop("check_config")
    settings = load(given, environment, Path(toml) if toml else None)
    problems = _missing_for_the_core(settings)
    problems += [
        f"{door}: {library} is not installed; install 'trivium[{door}]', or use --no-{door}"
        for door, libraries in LIBRARIES.items()
        if getattr(settings, door)
        for library in libraries
        if not _is_installed(library)
    ]
    if not (settings.rest or settings.grpc or settings.amqp):
        problems.append("no door is enabled: use at least one of --rest, --grpc, --amqp")
    if problems:
        raise InvalidSettings(problems)
    return settings, check_only


def _missing_for_the_core(settings: Settings) -> list[str]:
    """Problems of `--core` with the libraries that its protocols take."""
    schemes = {address.partition(":")[0].removesuffix("s") for address in settings.core.split(",") if address}
    needed = {"grpc": ("grpc", LIBRARIES["grpc"]), "http": ("remote", ("aiohttp",))}
    return [
        f"core: {library} is not installed; install 'trivium[{needed[scheme][0]}]', or use no {scheme}:// address"
        for scheme in sorted(schemes)
        for library in needed[scheme][1]
        if not _is_installed(library)
    ]


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def run(arguments: Sequence[str] | None = None) -> int:
    """The whole program; the answer is the exit code."""
    try:
        settings, check_only = configure(sys.argv[1:] if arguments is None else arguments, os.environ)
        if check_only:
            print("trivium: the configuration is valid")
            return EXIT_OK
        configure_logging(settings.log_level, settings.log_format)
        _allow_many_connections()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(Container(settings=settings)))
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
