"""Starts what is measured on a core of its own, and reads from the kernel what it used."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[1]
#: Trivium runs in the environment of its users, which is the one of this program, the peers in one of their own.
OURS = Path(sys.executable)
PEERS = ROOT / "bench/.venv/bin"
HOST = "127.0.0.1"
Command: TypeAlias = list[str | Path]
_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the text holds its last words."""


class Server:
    """A running program, with every process it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far, those included that have ended and were waited for."""
        ticks = 0
        for pid in self._processes():
            fields = _stat(pid)
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
        return ticks / _TICKS

    def memory_mib(self) -> tuple[float, float]:
        """Resident memory of all its processes added up, and the same with shared pages counted in parts (PSS)."""
        resident = proportional = 0
        for pid in self._processes():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            resident += int(rollup.partition("\nRss:")[2].split()[0])
            proportional += int(rollup.partition("\nPss:")[2].split()[0])
        return resident / 1024, proportional / 1024

    def await_port(self, port: int) -> None:
        """Return once it accepts connections."""
        deadline = time.monotonic() + _START_SECONDS
        while not _accepts(port):
            self.require_alive()
            if time.monotonic() > deadline:
                raise ServerFailed(f"does not listen on port {port}:\n{self._last_words()}")
            time.sleep(0.002)

    def await_answer(self, port: int, path: str) -> None:
        """Return once a GET over HTTP/1.1 is answered with 200."""
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port, path):
            self.require_alive()
            if time.monotonic() > deadline:
                raise ServerFailed(f"does not answer on port {port}:\n{self._last_words()}")
            time.sleep(0.001)

    def require_alive(self) -> None:
        if self._process.poll() is not None:
            raise ServerFailed(f"ended with code {self._process.returncode}:\n{self._last_words()}")

    def stop(self) -> None:
        """End it and everything it started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{self._log.stem} did not stop and was killed", file=sys.stderr)
        for pid in self._processes():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _processes(self) -> list[int]:
        # Each server leads a session, which its children stay in.
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = _stat(int(folder.name))
            except OSError:
                continue  # it has ended
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(folder.name))
        return found

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def on_core(core: int, command: Sequence[str | Path]) -> list[str]:
    """The command, held to one core, and ended by the kernel should this program die."""
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "--cpu-list", str(core), *map(str, command)]


@contextmanager
def started(command: Sequence[str | Path], core: int, log: Path, **environment: str) -> Iterator[Server]:
    """A server on that core, its output in `log`; stopped at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            on_core(core, command),
            cwd=ROOT,
            env=_inherited() | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _inherited() -> dict[str, str]:
    """Our environment, but no settings, nor Python's: each server is started with what is written here.

    Without compiled modules, which a variable of Python's may forbid to keep, each start compiles everything anew.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRIVIUM_", "PYTHON")) and name != "AMQP_URL"
    }


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold blanks: the state comes first (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
