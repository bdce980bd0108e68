"""An edge as a part of a process: its start, its settings, and what it takes from the outside."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import httpx2
import pytest

from container import Container
from core.health import Health, State
from core.messages import new_message
from core.remote.addresses import Addresses
from core.settings import InvalidSettings, Settings, load
from main import configure, running
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.pki import Pki
from tests.remote.conftest import PROTOCOLS, Core, start_core, start_edge, until
from transports.grpc.remote import GrpcLink

ROOT = Path(__file__).parents[2]


async def test_an_edge_starts_without_its_core_and_recovers(core: Core, stack: AsyncExitStack) -> None:
    """It listens, is not ready and says why; once the core is there it is ready."""
    await core.grpc.close()
    await core.rest.close()
    async with asyncio.timeout(10):
        edge = await start_edge(stack, core.addresses)
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))
    answer = await http.get("/readyz?verbose")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["core"] == {"state": "failed", "detail": "0 of 2 addresses answer"}
    assert checks[f"core {core.address('rest')}"]["detail"].startswith(("open: ", "half-open: "))
    assert (await http.get("/livez")).status_code == 200
    assert (await http.get("/api/data")).status_code == 503
    await core.rest.open()
    await edge.until("core", "1 of 2")
    assert edge.health.checks["core"].state is State.DEGRADED
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.get("/api/data")).json()["offset"] == 0


async def test_an_edge_that_is_stopped_while_it_starts_leaves_nothing_behind(core: Core) -> None:
    """It may be waiting for an address that does not even refuse."""
    core.grpc.freeze()
    settings = Settings(core=core.address("grpc"), rest_port=0, grpc_port=0, admin_port=0, amqp=False)
    closed: list[str] = []

    class Told(GrpcLink):
        async def __aexit__(self, *error: Any) -> None:
            closed.append("link")
            await super().__aexit__(*error)

    addresses = Addresses({"core": Told(settings.core, settings)}, Health(), patience=60)
    starting = asyncio.create_task(addresses.__aenter__())
    await until(lambda: bool(core.grpc.connections))
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert closed == ["link"]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")]


async def test_a_quiet_edge_notices_that_its_core_has_gone(core: Core, stack: AsyncExitStack) -> None:
    """`/readyz` is true without any traffic."""
    edge = await start_edge(stack, core.addresses)
    assert edge.health.ready
    await core.grpc.close()
    await core.rest.close()
    await edge.until("core", "0 of 2")
    assert not edge.health.ready


async def test_an_edge_opens_no_store(core: Core, tmp_path: Path) -> None:
    """Not even its folder is made."""
    folder = tmp_path / "data"
    settings = Settings(core=core.addresses, data_dir=str(folder), rest_port=0, grpc_port=0, admin_port=0, amqp=False)
    async with running(Container(settings=settings)):
        assert not folder.exists()


def test_amqp_is_off_where_the_store_is_elsewhere() -> None:
    """Unless somebody insists, which is an error that says what to do."""
    assert not load({"core": "grpc://core:50051"}, {}).amqp
    assert not load({"core": "grpc://core:50051", "amqp": False}, {}).amqp
    assert load({}, {}).amqp
    for flags, environment in (({"amqp": True}, {}), ({}, {"TRIVIUM_AMQP": "true"})):
        with pytest.raises(InvalidSettings, match="--no-amqp"):
            load({"core": "grpc://core:50051", **flags}, environment)


@pytest.mark.parametrize(
    "core",
    [
        "core:50051",
        "http://core",
        "grpc://core:70000",
        "ftp://core",
        "grpc://",
        "http://core/path",
        "grpc://a,",
        "http://user:secret@core",
    ],
)
def test_addresses_have_a_form(core: str) -> None:
    """A protocol, a host and a port; what else they hold is refused, and not shown."""
    with pytest.raises(InvalidSettings) as caught:
        load({"core": core}, {})
    assert "secret" not in str(caught.value)


def checked(**flags: str) -> str:
    """What is told about a configuration."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    try:
        configure(given, {})
    except InvalidSettings as error:
        return str(error)
    return ""


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_the_files_of_the_link_are_checked_before_the_start(pki: Pki, tmp_path: Path, scheme: str) -> None:
    """Each problem names its setting."""
    core = f"{scheme}://core:443,http://core:80"
    good = {"core_tls_ca": str(pki.ca), "core_tls_cert": str(pki.certificate), "core_tls_key": str(pki.key)}
    assert checked(core=core, **good) == ""
    missing = str(tmp_path / "missing")
    told = checked(core=core, core_tls_ca=missing, core_tls_cert=missing, core_tls_key=str(pki.key)).splitlines()
    assert told == [f"core_tls_{name}: can't read the file: No such file or directory" for name in ("ca", "cert")]
    _, key = pki.ours.client("other").write(tmp_path, "other")
    assert "core_tls_key: does not fit" in checked(core=core, **{**good, "core_tls_key": str(key)})
    assert "one is missing" in checked(core=core, core_tls_cert=str(pki.certificate))


def test_files_of_a_link_without_tls_are_refused(pki: Pki) -> None:
    """They would look as if the link were encrypted."""
    assert "--core-tls-ca takes an address" in checked(core="grpc://core:1,http://core:2", core_tls_ca=str(pki.ca))


@pytest.mark.parametrize(
    ("arguments", "imported", "unwanted"),
    [
        (
            ("--rest", "--no-grpc", "--core=http://127.0.0.1:1"),
            "aiohttp",
            ("grpc", "google.protobuf", "pika"),
        ),
        (
            ("--grpc", "--no-rest", "--core=grpc://127.0.0.1:1"),
            "grpc",
            ("starlette", "hypercorn", "aiohttp", "pika"),
        ),
    ],
)
async def test_what_is_not_used_is_not_imported(
    arguments: tuple[str, ...], imported: str, unwanted: tuple[str, ...]
) -> None:
    """Neither the library of a door that is off nor that of a protocol that no address has."""
    program = f"""
import asyncio, os, sys
import main
from container import Container
async def run():
    settings, _ = main.configure(sys.argv[1:], {{}})
    async with main.running(Container(settings=settings)):
        print({imported!r} in sys.modules, [name for name in {unwanted!r} if name in sys.modules])
asyncio.run(run())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        "--rest-port=0",
        "--grpc-port=0",
        "--admin-port=0",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert "True []" in out.decode().splitlines()


async def test_a_protocol_without_its_library_is_refused() -> None:
    """The error names the extra."""
    hidden = "import sys; sys.modules['aiohttp'] = None; import main; sys.exit(main.run())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", hidden, "--no-grpc", "--core=http://127.0.0.1:1", "--check-config"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    assert process.returncode == 2
    assert "the extra `remote`" in complaint.decode()


async def test_a_stream_of_publishes_keeps_its_order(core: Core, stack: AsyncExitStack) -> None:
    """Many in flight through the gRPC door of an edge: answered in order, and at the offsets of that order."""
    edge = await start_edge(stack, core.addresses)
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(edge.doors["grpc"].address))

    async def requests() -> AsyncIterator[pb.PublishStreamRequest]:
        for number in range(300):
            yield pb.PublishStreamRequest(topic="t", messages=[pb.Message(id=f"{number}", data=b"x")])

    answers = [answer async for answer in MessagesStub(channel).PublishStream(requests())]
    assert [(answer.messages[0].id, answer.messages[0].offset) for answer in answers] == [
        (f"{number}", number + 1) for number in range(300)
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_log_that_was_replaced_is_read_as_it_is(core: Core, stack: AsyncExitStack, protocol: str) -> None:
    """By a backup or an empty one: nothing at an edge stands for what was at the same places, whatever its ids."""
    edge = await start_edge(stack, core.address(protocol))
    messages = MessagesStub(await stack.enter_async_context(grpc.aio.insecure_channel(edge.doors["grpc"].address)))
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))

    async def read() -> set[bytes]:
        """The data of all messages, in whichever way they are read."""
        one = await messages.GetMessage(pb.GetMessageRequest(topic="t", offset=1))
        page = await messages.ReadMessages(pb.ReadMessagesRequest(topic="t"))
        found = {stored.data for stored in (one.message, *page.messages)}
        async with http.stream("GET", "/api/topics/t/stream?after=0") as answer:
            events = (line.removeprefix("data: ") async for line in answer.aiter_lines() if line.startswith("data: "))
            for _ in page.messages:
                found.add(json.loads(await anext(events))["data"].encode())
        return found

    other = await start_core(stack)
    for one, data in ((core, b"old"), (other, b"new")):
        await one.service.publish("t", [new_message(data, id=f"{id_}", content_type="text/plain") for id_ in range(40)])
    assert await read() == {b"old"}
    await core.proxy(protocol).close()
    await edge.notices("0 of 1")
    core.proxy(protocol).target = other.proxy(protocol).target
    await core.proxy(protocol).open()
    await edge.until("core", "1 of 1")
    assert await read() == {b"new"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/topics/t/messages?limit=99999999999", "limit"),
        ("/api/topics/t/messages?limit=99999999999&wait=1", "limit"),
        ("/api/topics?limit=99999999999", "limit"),
        ("/api/topics/t/messages?after=99999999999999999999", "after"),
        ("/api/topics/t/messages/99999999999999999999", "offset"),
        ("/api/topics/t/stream?after=99999999999999999999", "after"),
    ],
)
async def test_numbers_that_no_wire_takes_are_refused(
    core: Core, stack: AsyncExitStack, protocol: str, path: str, field: str
) -> None:
    """As the core would refuse them, whichever way they would go to it."""
    edge = await start_edge(stack, core.address(protocol))
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=edge.doors["rest"].address, timeout=30))
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert answer.json()["field"] == field
