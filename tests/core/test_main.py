"""The program, as a process."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import Process
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple, Self

import httpx2
import msgspec
import pytest
from dependency_injector import providers

from container import Container
from core import VERSION
from core.health import Health
from core.service import LocalService
from core.settings import Settings, options
from main import LIBRARIES, running
from tests.core.opening import a_log, until

ROOT = Path(__file__).parents[2]
#: Runs main with libraries hidden, as if they were not installed.
WITHOUT = """
import sys
hidden = sys.argv.pop(1).split(",")
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import main
sys.exit(main.run())
"""
#: Runs main with a part that has no door of its own to open.
PARTS = """
import sys
from dependency_injector import providers
import container, main
class Door:
    name, address = "rest", "nowhere"
    async def __aenter__(self):
        return self
    async def __aexit__(self, *args):
        {leaving}
    async def wait(self):
        {life}
container.Container.rest.override(providers.Singleton(Door))
sys.exit(main.run())
"""
FOREVER = "import asyncio; await asyncio.Event().wait()"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


async def start(*arguments: str, code: str = "", env: dict[str, str] | None = None) -> Process:
    how = ("-c", code) if code else ("main.py",)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *how,
        *arguments,
        cwd=ROOT,
        env={"TRIVIUM_ADMIN": "off", "PATH": "", **(env or {})},
        stdout=PIPE,
        stderr=PIPE,
    )


async def trivium(*arguments: str, code: str = "", env: dict[str, str] | None = None) -> Ended:
    """Run it to its end."""
    process = await start(*arguments, code=code, env=env)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def until_up(process: Process) -> list[str]:
    """The events of the log until it is up."""
    assert process.stderr is not None
    events: list[str] = []
    while "trivium is up" not in events:
        line = await process.stderr.readline()
        assert line, events
        events.append(json.loads(line)["message"])
    return events


async def test_version() -> None:
    """Alone, on stdout."""
    assert await trivium("--version") == Ended(0, f"trivium {VERSION}\n", "")


async def test_help_names_every_setting() -> None:
    """With its default."""
    ended = await trivium("--help")
    assert ended.code == 0
    for option in options():
        assert option.flag in ended.out
    assert "--no-rest" in ended.out


async def test_check_config(tmp_path: Path) -> None:
    """Says that it is valid, and starts nothing."""
    ended = await trivium("--check-config", "--data-dir", str(tmp_path / "data"))
    assert ended == Ended(0, "trivium: the configuration is valid\n", "")
    assert not (tmp_path / "data").exists()


async def test_bad_settings_are_all_listed(tmp_path: Path) -> None:
    """Those of flags, environment and TOML, one a line, and no secret."""
    toml = tmp_path / "trivium.toml"
    toml.write_text('greetings = "hello"\namqp_url = ["hunter2"]')
    env = {"TRIVIUM_LOG_LEVEL": "loud", "TRIVIUM_CONFIG": str(toml)}
    ended = await trivium("--rest-port", "x", "--grpc-port", "-1", "--check-config", env=env)
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert all(line.startswith("trivium: ") for line in lines)
    for origin in ("--rest-port", "--grpc-port", "TRIVIUM_LOG_LEVEL", "amqp_url", str(toml)):
        assert sum(line.startswith(f"trivium: {origin}: ") for line in lines) == 1
    assert len(lines) == 5
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("flags", [("--no-such",), ("--config",), ("stray",), ("--config", "/no/such.toml")])
async def test_bad_flags(flags: tuple[str, ...]) -> None:
    """Exit 2, as every usage error."""
    ended = await trivium(*flags)
    assert (ended.code, ended.out) == (2, "")
    assert flags[0].lstrip("-") in ended.err or flags[-1] in ended.err


async def test_without_a_door_there_is_nothing_to_do() -> None:
    """Exit 2."""
    ended = await trivium("--no-rest", "--no-grpc", "--no-amqp")
    assert ended.code == 2
    assert ended.err == "trivium: no door is enabled: use at least one of --rest, --grpc, --amqp\n"


@pytest.mark.parametrize(("door", "library"), [(door, one) for door, needed in LIBRARIES.items() for one in needed])
async def test_a_missing_library_names_the_extra(door: str, library: str) -> None:
    """Or the flag that does without; the other doors do not miss it."""
    ended = await trivium(library.partition(".")[0], "--check-config", code=WITHOUT)
    assert ended.code == 2
    assert f"trivium: {door}: {library} is not installed; install the extra `{door}`, or use --no-{door}\n" in ended.err
    assert all(line.startswith(f"trivium: {door}: ") for line in ended.err.splitlines())
    ended = await trivium(library, "--check-config", f"--no-{door}", code=WITHOUT)
    assert ended.code == 0


async def test_access_tokens_without_their_library(tmp_path: Path) -> None:
    """The extra is named; who takes no tokens does without it."""
    (tmp_path / "policy.toml").touch()
    required = ("--auth", "required", "--policy", str(tmp_path / "policy.toml"))
    tokens = ("--token-issuer", "https://issuer.example", "--token-audience", "trivium")
    assert (await trivium("joserfc", "--check-config", *required, code=WITHOUT)).code == 0
    ended = await trivium("joserfc", "--check-config", *required, *tokens, code=WITHOUT)
    assert ended.code == 2
    assert ended.err == "trivium: token_issuer: joserfc is not installed; install the extra `oauth`\n"
    assert (await trivium("--check-config", *required, *tokens)).code == 0


async def test_an_issuer_that_is_away_holds_up_no_start(tmp_path: Path) -> None:
    """Nor the end, once the connection is gone."""
    (tmp_path / "policy.toml").touch()
    code = PARTS.format(life=FOREVER, leaving="pass")
    flags = ["--auth", "required", "--policy", str(tmp_path / "policy.toml"), "--token-audience", "trivium"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        flags += ["--token-issuer", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        process = await start("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path / "data"), *flags, code=code)
        assert await until_up(process) == ["door is open", "trivium is up"]
        process.terminate()
    _, err = await process.communicate()
    assert process.returncode == 0, err
    assert [json.loads(line)["message"] for line in err.splitlines()][-1] == "trivium has stopped"


class Door:
    """A door that follows a topic while it is open, and leaves once that has ended."""

    name, address = "rest", "nowhere"

    def __init__(self, service: LocalService, health: Health) -> None:
        self._service = service
        self._health = health
        self.drained = False

    async def _follow(self) -> None:
        async for _ in self._service.follow("a"):
            pass

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        await until(lambda: self._service.streams == 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._task
        self.drained = self._health.draining


async def test_a_door_that_can_not_open_closes_those_that_are(settings: Settings) -> None:
    """Their streams are ended first, or they would wait for them for ever."""
    container = Container(settings=msgspec.structs.replace(settings, amqp=False))
    door = Door(container.service(), container.health())
    container.rest.override(providers.Object(door))
    container.grpc.override(providers.Callable(_no_port))
    with pytest.raises(OSError, match="port taken"):
        async with running(container):
            pass
    assert door.drained


async def test_streams_end_before_the_doors_close(settings: Settings) -> None:
    """Readiness goes first."""
    container = Container(settings=msgspec.structs.replace(settings, amqp=False, grpc=False))
    door = Door(container.service(), container.health())
    container.rest.override(providers.Object(door))
    async with running(container) as up:
        assert list(up.doors) == ["rest"]
        assert container.health().ready
    assert door.drained


async def test_probes_are_answered_from_the_first_to_the_last(settings: Settings) -> None:
    """Not ready while a door opens or closes, and alive all the time."""
    container = Container(settings=msgspec.structs.replace(settings, amqp=False, grpc=False))
    probed: list[tuple[int, int, str]] = []

    class Probing:
        name = "rest"

        async def __aenter__(self) -> Self:
            await self._probe()
            return self

        async def __aexit__(self, *_: object) -> None:
            await self._probe()

        async def _probe(self) -> None:
            async with httpx2.AsyncClient(base_url=container.admin().address) as http:
                ready = await http.get("/readyz")
                problem = ready.json().get("detail", "")
                probed.append(((await http.get("/livez")).status_code, ready.status_code, problem))

    door = Probing()
    container.rest.override(providers.Object(door))
    async with running(container):
        await door._probe()
    assert probed == [
        (200, 503, "the service is starting"),
        (200, 200, ""),
        (200, 503, "the service is ending"),
    ]


def _no_port() -> None:
    raise OSError("port taken")


async def test_a_folder_that_is_in_use(tmp_path: Path) -> None:
    """Exit 1, naming the process that has it."""
    async with a_log(str(tmp_path)):
        ended = await trivium("--no-grpc", "--no-amqp", "--rest-port", "0", "--data-dir", str(tmp_path))
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert json.loads(line)["message"] == "trivium can't run"
    assert "is in use by process" in json.loads(line)["trivium.reason"]


async def test_keys_that_can_not_be_read(tmp_path: Path) -> None:
    """Exit code 1, and a last line that says why; no traceback."""
    (tmp_path / "keys.db").write_bytes(b"x" * 4096)
    ended = await trivium("--no-grpc", "--no-amqp", "--rest-port", "0", "--data-dir", str(tmp_path))
    assert ended.code == 1
    last = json.loads(ended.err.splitlines()[-1])
    assert last["message"] == "trivium can't run"
    assert "the keys can't be read" in last["trivium.reason"]
    assert "Traceback" not in ended.err


async def test_an_admin_port_that_is_taken(tmp_path: Path) -> None:
    """Exit 1, saying which and what to do; nothing was opened before it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"TRIVIUM_ADMIN": "on", "TRIVIUM_ADMIN_PORT": str(taken.getsockname()[1])}
        ended = await trivium("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path / "data"), env=env)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert json.loads(line)["message"] == "trivium can't run"
    assert f"the admin listener can't listen on 127.0.0.1:{env['TRIVIUM_ADMIN_PORT']}" in line
    assert "--no-admin" in line
    assert not (tmp_path / "data").exists()


async def test_the_admin_listener_needs_no_door(tmp_path: Path) -> None:
    """It serves metrics and probes where neither REST nor its libraries are; and lets the service end."""
    switches = ("--no-rest", "--no-amqp", "--grpc-port", "0", "--data-dir", str(tmp_path))
    hidden = "starlette,hypercorn,h11,h2,pika"
    process = await start(
        hidden, *switches, code=WITHOUT, env={"TRIVIUM_ADMIN": "on", "TRIVIUM_ADMIN_PORT": "0", "PATH": ""}
    )
    assert process.stderr is not None
    opened = json.loads(await process.stderr.readline())
    assert opened["message"] == "admin listener is open"
    await until_up(process)
    async with httpx2.AsyncClient(base_url=opened["trivium.address"], timeout=30) as http:
        assert (await http.get("/readyz?verbose")).json()["checks"]["store"]["state"] == "ok"
        assert "grpc_server_started_total" in (await http.get("/metrics")).text
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


async def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    """Exit 1."""
    (tmp_path / "file").touch()
    ended = await trivium("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path / "file" / "data"))
    assert ended.code == 1
    assert "trivium can't run" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Exit 0, and the folder is free."""
    code = PARTS.format(life=FOREVER, leaving="pass")
    process = await start("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path), code=code)
    assert await until_up(process) == ["door is open", "trivium is up"]
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == 0, err
    told = [json.loads(line)["message"] for line in err.splitlines()]
    assert told == ["trivium is stopping", "door is closing", "trivium has stopped"]
    async with a_log(str(tmp_path)):
        pass


@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_a_real_door_says_where_it_listens_and_ends_cleanly(tmp_path: Path, door: str) -> None:
    """One line each."""
    if find_spec(f"transports.{door}.door") is None:
        pytest.skip(f"there is no {door} door")
    switches = [f"--{'' if other == door else 'no-'}{other}" for other in LIBRARIES]
    process = await start(*switches, "--rest-port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path))
    assert process.stderr is not None
    opened = json.loads(await process.stderr.readline())
    assert (opened["message"], opened["trivium.door"]) == ("door is open", door)
    assert "127.0.0.1:" in opened["trivium.address"]
    await until_up(process)
    process.terminate()
    _, err = await process.communicate()
    assert process.returncode == 0, err


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Exit 1: it was not finished."""
    code = PARTS.format(life=FOREVER, leaving=FOREVER)
    process = await start("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path), code=code)
    await until_up(process)
    process.terminate()
    assert process.stderr is not None
    assert b"trivium is stopping" in await process.stderr.readline()
    process.terminate()
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"second signal (SIGTERM)" in err


async def test_what_does_not_end_in_time_is_left(tmp_path: Path) -> None:
    """Exit 1 after `--drain-seconds`."""
    code = PARTS.format(life=FOREVER, leaving=FOREVER)
    process = await start("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path), "--drain-seconds", "0.05", code=code)
    await until_up(process)
    process.terminate()
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"not drained within 0.05 s" in err


async def test_a_loop_that_does_not_close_in_time_is_left(tmp_path: Path) -> None:
    """As it does not while a name is looked up that nobody answers."""
    code = f"""
import asyncio, threading, main
class Loop(asyncio.SelectorEventLoop):
    def close(self):
        threading.Event().wait()
main._loop_factory = lambda: Loop
{PARTS.format(life="return", leaving="pass")}"""
    ended = await trivium("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path), "--drain-seconds", "0.05", code=code)
    assert ended.code == 1
    assert "not drained within 0.05 s" in ended.err


@pytest.mark.parametrize("life", ["raise ValueError('a defect')", "return"])
async def test_a_part_that_ends_by_itself_ends_the_service(tmp_path: Path, life: str) -> None:
    """Cleanly, but with exit 1, so that somebody starts it again."""
    code = PARTS.format(life=life, leaving="pass")
    ended = await trivium("--no-grpc", "--no-amqp", "--data-dir", str(tmp_path), code=code)
    assert ended.code == 1
    events = [json.loads(line)["message"] for line in ended.err.splitlines()]
    assert events == [
        "door is open",
        "trivium is up",
        "a part has ended",
        "trivium is stopping",
        "door is closing",
        "trivium has stopped",
    ]
    assert ("a defect" in ended.err) == life.startswith("raise")


class TestTraces:
    """Wanted by OpenTelemetry's own variables."""

    @pytest.mark.parametrize(
        ("variables", "wanted"),
        [
            ({}, False),
            ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, False),
            ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ],
    )
    async def test_opentelemetry_is_imported_only_where_traces_are_exported(
        self, tmp_path: Path, variables: dict[str, str], wanted: bool
    ) -> None:
        """Nothing of it, else."""
        code = (
            "import sys, main\n"
            "code = main.run()\n"
            "libraries = {name.partition('.')[0] for name in sys.modules}\n"
            "print(code, 'core.telemetry.spans' in sys.modules, 'opentelemetry' in libraries)"
        )
        arguments = ("--no-amqp", "--rest-port=0", "--grpc-port=0", "--data-dir", str(tmp_path))
        process = await start(*arguments, code=code, env=variables)
        await until_up(process)
        process.terminate()
        out, _ = await process.communicate()
        assert out.decode().split() == ["0", str(wanted), str(wanted)]

    async def test_what_stands_against_them_is_told(self) -> None:
        """With the other problems of the configuration, and not found out at the first span."""
        env = {
            "OTEL_TRACES_EXPORTER": "zipkin",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_TRACES_SAMPLER_ARG": "1%",
        }
        ended = await trivium("opentelemetry", "--check-config", "--no-amqp", code=WITHOUT, env=env)
        assert ended.code == 2
        assert ended.err.splitlines() == [
            "trivium: OTEL_TRACES_EXPORTER: can't export to 'zipkin'; there are otlp and none",
            "trivium: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: can't export by 'grpc'; there is http/protobuf",
            "trivium: OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1",
            "trivium: OTEL_*: opentelemetry is missing; install the extra `tracing`, or set OTEL_SDK_DISABLED=true",
        ]
        assert (await trivium("--check-config", "--no-amqp", env={"OTEL_TRACES_EXPORTER": "otlp"})).code == 0
