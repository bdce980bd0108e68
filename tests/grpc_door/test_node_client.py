"""A gRPC client that no one here wrote: @grpc/grpc-js on Node."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from core.stores.sqlite import SqliteLog
from transports.grpc.door import GrpcDoor

SOURCE = Path(__file__).with_name("node_client")
PROTO = Path(__file__).parents[2] / "proto"
INSTALL_SECONDS = 90


@pytest.fixture(scope="session")
def node_client(pytestconfig: pytest.Config) -> Path:
    """The folder of the client with what it needs from npm, which later runs find again."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = pytestconfig.cache.mkdir("trivium-node-client")
    for name in ("package.json", "client.mjs"):
        shutil.copyfile(SOURCE / name, folder / name)
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm can't install the client: {str(error.stderr)[-300:]}")
    return folder


async def test_a_node_client_publishes_reads_and_follows(node_client: Path, door: GrpcDoor, log: SqliteLog) -> None:
    """What another implementation of gRPC publishes it reads and follows as it was, with statuses and details."""
    process = await asyncio.create_subprocess_exec(
        "node", "client.mjs", door.address, str(PROTO), cwd=node_client, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(output)
    assert seen["greeting"] == "Hello from Trivium"
    published = {"topic": "node", "offset": 1, "id": "one"}
    assert seen["published"] == [published]
    assert seen["repeated"] == [{**published, "duplicate": True}]
    assert seen["refused"] == {
        "code": grpc.StatusCode.ALREADY_EXISTS.value[0],
        "details": "id: was published before with other content, at offset 1",
        "rich": 1,
    }
    assert seen["followed"] == list(range(1, 102))
    assert seen["streamed"] == list(range(2, 102))
    assert seen["read"] == [{"id": "one", "subject": "né", "data": "hello", "attributes": {"origin": "node"}}]
    assert seen["next"] == 1
    assert seen["topics"] == [{"topic": "node", "head": 101}]
    assert [one.message.data for one in await log.read("node", 1, 100, 10**9)] == [
        b"%d" % index for index in range(100)
    ]
