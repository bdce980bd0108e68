"""Doors that are disabled are not imported: neither their modules nor their libraries, though they are installed."""

import asyncio
import json
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

ROOT = Path(__file__).parents[2]
#: What must not be imported unless the door is enabled.
OF_DOOR = {
    "rest": ("starlette", "hypercorn", "h11", "h2", "transports.rest"),
    "grpc": ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "proto", "transports.grpc"),
    "amqp": ("pika", "transports.amqp"),
}
MODULES = {
    "rest": ("transports.rest.door",),
    "grpc": ("transports.grpc.door",),
    "amqp": ("transports.amqp.connection", "transports.amqp.publisher", "transports.amqp.inbox", "transports.amqp.rpc"),
}
#: What takes long or much memory, and few need: not imported by the start, but by the first who asks for it.
LATER = {
    *("h2", "hypercorn"),
    *("transports.rest.openapi", "google.protobuf.descriptor_pb2", "grpc_reflection.v1alpha.reflection"),
    *("core.remote.service", "prometheus_client"),
}
STARTING = """
import asyncio, json, sys
import main
from container import Container

async def started(container):
    async with main.running(container) as up:
        return list(up.doors)

settings, _ = main.configure(sys.argv[1:], {})
doors = asyncio.run(started(Container(settings=settings)))
print(json.dumps([doors, sorted(sys.modules)]))
"""


async def python(code: str, *arguments: str) -> str:
    """The last line of what the code prints, in a fresh interpreter."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()[-1]


async def test_the_composition_root_imports_no_door() -> None:
    """Not before one is asked for."""
    modules = set((await python("import main, sys; print(*sys.modules)")).split())
    assert not modules & {name for names in OF_DOOR.values() for name in names}


async def test_the_core_knows_no_transport() -> None:
    """It stands alone."""
    code = "import sys, core.service, core.relay, core.logs, core.stores.sqlite; print(*sys.modules)"
    modules = set((await python(code)).split())
    outside = {"transports", "proto", "container", "main", "testing"}
    assert not modules & outside.union(*OF_DOOR.values())


@pytest.mark.parametrize("door", list(OF_DOOR))
async def test_a_door_alone_imports_nothing_of_the_others(door: str) -> None:
    """It starts and stops without them; the broker is away all the time."""
    switches = [f"--{'' if other == door else 'no-'}{other}" for other in OF_DOOR]
    ports = ("--rest-port", "0", "--grpc-port", "0", "--amqp-url", "amqp://127.0.0.1:1/")
    doors, modules = json.loads(await python(STARTING, *switches, *ports, "--data-dir", ":memory:"))
    assert doors == [door]
    assert set(MODULES[door]) <= set(modules)
    assert not set(modules) & {name for other, names in OF_DOOR.items() if other != door for name in names}


async def test_a_start_imports_nothing_that_few_need() -> None:
    """Not HTTP/2, documents, reflection or scrapes, nor what only a setting wants that is not given."""
    ports = ("--rest-port", "0", "--grpc-port", "0", "--amqp-url", "amqp://127.0.0.1:1/")
    doors, modules = json.loads(await python(STARTING, *ports, "--admin-port", "0", "--data-dir", ":memory:"))
    assert set(doors) == set(OF_DOOR)
    assert not LATER & set(modules)
