"""SIGTERM in the middle of work, on every supported Python; and doors without their libraries."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.clients import Published, grpc_publisher, rest_publisher, whole_topic
from tests.e2e.process import ROOT, trivium_process
from tests.e2e.test_fan_out import sse_offsets

VERSIONS = ("3.11", "3.12", "3.13")
DOOR_LIBRARIES = (
    *("grpcio", "grpcio-status", "grpcio-reflection", "grpcio-health-checking", "protobuf", "googleapis-common-protos"),
    "pika",
)


def interpreter(version: str) -> str | None:
    """A CPython of that version, on the PATH or where pyenv keeps them."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    kept = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")  # pyenv's shims are on the PATH too


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a virtual environment from the lock; its Python."""

    def make(version: str, *without: str) -> str:
        found = interpreter(version)
        if found is None:
            pytest.skip(f"there is no Python {version} here")
        folder = tmp_path_factory.mktemp(f"python{version}-")
        python = str(folder / "bin/python")
        uv = [sys.executable, "-m", "uv", "--quiet"]
        try:
            _run(*uv, "venv", "--allow-existing", "--no-python-downloads", "--python", found, str(folder))
            _run(*uv, "pip", "install", "--python", python, "--require-hashes", "-r", str(ROOT / "requirements.txt"))
            if without:
                _run(*uv, "pip", "uninstall", "--python", python, *without)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"an environment for Python {version} can't be made: {error.stderr}")
        return python

    return make


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", VERSIONS)
async def test_sigterm_drains(version: str, tmp_path: Path, environment: Callable[..., str]) -> None:
    """With open streams and publishes in flight: exit 0 within the drain time, nothing acknowledged is lost."""
    python = sys.executable if interpreter(version) == sys.executable else environment(version)
    published = Published()
    arguments = ("--no-amqp", f"--data-dir={tmp_path}")
    async with trivium_process(*arguments, python=python) as trivium:
        open_ = asyncio.Event()

        async def follow() -> int:
            return len([offset async for offset in sse_offsets(trivium.rest, open_.set)])

        follower = asyncio.create_task(follow())
        await open_.wait()
        async with rest_publisher(trivium.rest, "t") as by_rest, grpc_publisher(trivium.grpc, "t") as by_grpc:
            tasks = [
                asyncio.create_task(published.keep_publishing(by, f"{name}-{number}"))
                for name, by in (("rest", by_rest), ("grpc", by_grpc))
                for number in range(8)
            ]
            await published.reach(200)
            async with asyncio.timeout(20):
                assert await trivium.end(signal.SIGTERM) == 0
            await asyncio.wait(tasks)
        assert await follower > 0  # a clean end of the stream
    async with trivium_process(*arguments) as trivium:
        ids = [one["id"] for one in await whole_topic(trivium.rest, "t")]
    assert len(ids) == len(set(ids))
    assert set(published.ids) <= set(ids)


@pytest.mark.timeout(300)
async def test_doors_without_their_libraries(environment: Callable[..., str]) -> None:
    """Where grpcio and pika are not installed REST serves alone; the other doors are refused, naming the extra."""
    python = environment(f"{sys.version_info[0]}.{sys.version_info[1]}", *DOOR_LIBRARIES)
    async with trivium_process("--no-grpc", "--no-amqp", "--data-dir=:memory:", python=python) as trivium:
        async with httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http:
            assert (await http.get("/api/data")).json()["offset"] == 0
        assert await trivium.end(signal.SIGTERM) == 0
    refused = subprocess.run([python, "main.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)  # noqa: ASYNC221 - short
    assert refused.returncode == 2
    assert "the extra `grpc`" in refused.stderr
    assert "the extra `amqp`" in refused.stderr
