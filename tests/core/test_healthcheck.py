"""`main.py healthcheck`, against a Trivium that is up, draining or gone."""

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

import healthcheck
from core.health import State
from core.settings import MEMORY, Settings
from testing.plugin import Trivium

ROOT = Path(__file__).parents[2]


def by_admin(trivium: Trivium, **changes: object) -> Settings:
    port = urlsplit(trivium.admin).port
    assert port is not None
    return msgspec.structs.replace(Settings(), admin_port=port, **changes)


def by_rest(trivium: Trivium) -> Settings:
    return Settings(admin=False, grpc=False, rest_port=urlsplit(trivium.rest).port or 0)


def by_grpc(trivium: Trivium) -> Settings:
    return Settings(admin=False, rest=False, grpc_port=int(trivium.grpc.rpartition(":")[2]))


@pytest.mark.parametrize("settings_of", [by_admin, by_rest, by_grpc])
async def test_a_ready_one_is_ready(
    trivium: Trivium, settings_of: Callable[[Trivium], Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ready: exit code 0, and one line that says who was asked."""
    settings = settings_of(trivium)
    assert await asyncio.to_thread(healthcheck.check, settings) == 0
    port = settings.admin_port if settings.admin else settings.rest_port if settings.rest else settings.grpc_port
    assert capsys.readouterr() == (f"ready: 127.0.0.1:{port}\n", "")


@pytest.mark.parametrize(("settings_of", "said"), [(by_admin, "503"), (by_rest, "503"), (by_grpc, "NOT_SERVING")])
async def test_a_failed_one_is_not(
    trivium: Trivium, settings_of: Callable[[Trivium], Settings], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that can't do its work: exit code 1, and one line that says what the answer was."""
    trivium.container.health().report("store", State.FAILED, "full")
    assert await asyncio.to_thread(healthcheck.check, settings_of(trivium)) == 1
    complaints = capsys.readouterr().err
    assert complaints.count("\n") == 1
    assert said in complaints


@pytest.mark.parametrize("host", ["0.0.0.0", ""])  # noqa: S104 - what a container listens on
async def test_it_asks_over_loopback(trivium: Trivium, host: str) -> None:
    """A door that listens on every interface is asked over loopback."""
    assert await asyncio.to_thread(healthcheck.check, by_admin(trivium, admin_host=host)) == 0


@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_a_silent_one_is_not_ready(
    door: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A listener that takes connections and never answers is given up on."""
    monkeypatch.setattr(healthcheck, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = Settings(admin=False, rest=door == "rest", rest_port=port, grpc=door == "grpc", grpc_port=port)
        assert await asyncio.to_thread(healthcheck.check, settings) == 1
    assert capsys.readouterr().err.startswith(f"not ready: 127.0.0.1:{port}: ")


def test_nobody_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    """Ports that the system chose are not known here, so that is no proof of life."""
    assert healthcheck.check(Settings(admin_port=0, rest_port=0, grpc_port=0, data_dir=MEMORY)) == 1
    assert "no listener" in capsys.readouterr().err


def test_doors_with_tls_can_not_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Their certificate is not for loopback: the line says that the admin listener is needed."""
    assert healthcheck.check(Settings(admin=False, tls_cert="cert.pem", tls_key="key.pem")) == 1
    assert "the admin listener" in capsys.readouterr().err


async def test_the_command() -> None:
    """As a command it takes the flags of the service, and ends with the code and the line of the check."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "main.py", "healthcheck", f"--admin-port={port}", "--no-amqp"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env={}, stderr=asyncio.subprocess.PIPE)
    _, complaints = await process.communicate()
    assert (process.returncode, complaints) == (1, b"not ready: 127.0.0.1:%d: [Errno 111] Connection refused\n" % port)
