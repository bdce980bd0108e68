"""A private RabbitMQ node for development and tests.

Everything that the node reads or writes lies in one folder and it listens on the loopback interface alone, so it runs
beside a system-wide RabbitMQ, or several of its own kind, and disturbs none of them.

    python -m tools.rabbitmq [--folder FOLDER] -- COMMAND...

runs COMMAND with AMQP_URL set and stops the node after it. Where AMQP_URL is set already, COMMAND is all that runs.
"""

import argparse
import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple, Self

HOST = "127.0.0.1"
# Debian's wrapper on the PATH switches user and folder: the program behind it comes first.
SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
# The name need not be unique, since every node has an epmd of its own. It names the data, so it never changes.
NODE_NAME = "trivium@localhost"
# For every Erlang program: the node, rabbitmqctl, and the one by which a starting node makes sure of an epmd, which
# would leave a daemon behind if it were cut short. Nothing of ours listens beyond the loopback interface.
ERL_FLAGS = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
# Below the range from which the kernel picks ports for outgoing connections: a port stays free across a restart.
PORTS = range(20_000, 32_000)
AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


class NodeError(Exception):
    """The node can't run, or refused a command; the text says why and what to do."""


class NodeTls(NamedTuple):
    """PEM files of a node: whose clients it trusts, and what it shows them."""

    authorities: Path
    certificate: Path
    key: Path

    def configuration(self, port: int) -> str:
        lines = {
            "listeners.ssl.1": f"{HOST}:{port}",
            "ssl_options.cacertfile": self.authorities,
            "ssl_options.certfile": self.certificate,
            "ssl_options.keyfile": self.key,
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
            "ssl_options.versions.1": "tlsv1.3",
            "ssl_options.versions.2": "tlsv1.2",
            "ssl_cert_login_from": "common_name",
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "AMQPLAIN",
            "auth_mechanisms.3": "EXTERNAL",
        }
        return "".join(f"{name} = {value}\n" for name, value in lines.items())


class Node:
    """One RabbitMQ node whose data survive in `folder`; as a context manager it runs inside the block.

    `start` returns once clients can connect; it may be called again after `stop` or `kill`, and takes the same port.
    The node dies with the thread that started it: start it from the main thread.
    """

    def __init__(self, folder: Path, port: int | None = None, *, tls: NodeTls | None = None) -> None:
        """With `tls` it listens on `tls_port` too, and a certificate may log in its user (SASL EXTERNAL)."""
        self.folder = folder.resolve()
        free, self._epmd_port, self._distribution_port, self.tls_port = _free_ports(4)
        self.port = port or free
        self._tls = tls
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    def __enter__(self) -> Self:
        """Starts it, unless it runs already."""
        if not self._server:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout_seconds: float = 90) -> None:
        if self._server:
            raise NodeError("The RabbitMQ node runs already.")
        server, epmd = _server_program(), _program("epmd")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take_folder()
            self._require_free_port()
            self._write_files()
            with (self.folder / "console.log").open("wb") as log:
                self._epmd = self._spawn([epmd, "-address", HOST, "-port", str(self._epmd_port)], log)
                self._server = self._spawn([server], log)
            self._await_handshake(time.monotonic() + timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_seconds: float = 30) -> None:
        """Stops in good order, frozen or not, and by force after the deadline; no effect on a node that is down."""
        if self._server:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            try:
                self._server.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                print(f"RabbitMQ did not stop within {timeout_seconds:g} s and was killed.", file=sys.stderr)
        self.kill()

    def kill(self) -> None:
        """Ends the node as a crash would."""
        if self._server:
            self._signal(signal.SIGKILL)
            self._server.wait()
            self._server = None
        if self._epmd:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def freeze(self) -> None:
        """Connections stay open, the kernel goes on accepting new ones, and nothing is answered until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def ctl(self, *arguments: str, timeout_seconds: float = 60) -> str:
        """Runs rabbitmqctl and returns what it prints; a call takes about half a second.

        A memory alarm, which blocks publishers: `ctl("set_vm_memory_high_watermark", "0.00001")`; 0.4 ends it.
        """
        if not self._server:
            raise NodeError("rabbitmqctl needs a running node.")
        command = [str(Path(_server_program()).with_name("rabbitmqctl")), "--quiet", *arguments]
        try:
            done = subprocess.run(
                command, env=self._environment(), capture_output=True, text=True, timeout=timeout_seconds, check=True
            )
        except subprocess.CalledProcessError as error:
            raise NodeError(f"rabbitmqctl {' '.join(arguments)}: {error.stderr or error.stdout}") from error
        return done.stdout

    def _signal(self, number: signal.Signals) -> None:
        # Popen.send_signal would reach the leader alone, and know when it is gone.
        if self._server and self._server.poll() is None:
            os.killpg(self._server.pid, number)

    def _take_folder(self) -> None:
        self._lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NodeError(f"Another RabbitMQ node uses {self.folder}: stop it, or name another folder.") from error

    def _require_free_port(self) -> None:
        # Else the handshake below could be that of a stranger.
        if not _is_free(self.port):
            raise NodeError(f"Port {self.port} is taken.")

    def _write_files(self) -> None:
        configuration = self._tls.configuration(self.tls_port) if self._tls else ""
        (self.folder / "rabbitmq.conf").write_text(configuration)
        (self.folder / "advanced.config").write_text("[].\n")
        plugins = "rabbitmq_auth_mechanism_ssl" if self._tls else ""
        (self.folder / "enabled_plugins").write_text(f"[{plugins}].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_")) and name != "NOTIFY_SOCKET"
        }
        return inherited | {
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_FLAGS": ERL_FLAGS,
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self.folder / "feature_flags"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_QUORUM_DIR": str(self.folder / "quorum"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
            # Makes the start script exec the Erlang machine instead of watching it from a shell, so that ours is the
            # machine's own process id: the end of the one is the end of the other.
            "detached": "1",
        }

    def _spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        # In a session of its own, out of reach of the terminal's Ctrl-C. KILL, since a frozen node heeds nothing else.
        return subprocess.Popen(
            _no_orphan("KILL", command),
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _await_handshake(self, deadline: float) -> None:
        while not _answers(self.port):
            if self._server is None or self._server.poll() is not None:
                raise NodeError(f"RabbitMQ ended while it started.\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise NodeError(f"RabbitMQ did not start in time.\n{self._last_words()}")
            time.sleep(0.1)

    def _last_words(self) -> str:
        log = self.folder / "console.log"
        return "\n".join([f"From {log}:", *log.read_text(errors="replace").splitlines()[-20:]])


def _no_orphan(death: str, command: Sequence[str]) -> list[str]:
    """Has the kernel send the command that signal when the thread that starts it dies, however that comes about."""
    # Not by a preexec_fn: Python code after a fork is unsafe once threads run.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", death, *command] if setpriv else [*command]


def _server_program() -> str:
    for candidate in SERVERS:
        if found := shutil.which(candidate):
            return str(Path(found).resolve())
    raise NodeError(
        "RabbitMQ is not installed. On Debian or Ubuntu run tools/install_rabbitmq.sh, elsewhere install "
        "RabbitMQ 3.10 or later; or set AMQP_URL to a broker that runs already."
    )


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise NodeError(f"{name}, which comes with Erlang, is not on the PATH.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Erlang does: the remains of closed connections do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_ports(count: int) -> list[int]:
    return list(islice(filter(_is_free, random.sample(PORTS, len(PORTS))), count))


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(AMQP_HEADER)
            return connection.recv(1) == METHOD_FRAME
    except OSError:
        return False


def _run(command: Sequence[str], url: str) -> int:
    """Runs the command until it ends by itself, passing on the signals that ask us to end."""
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if not children:
            raise SystemExit(128 + number)
        children[0].send_signal(number)

    _on_end(pass_on)
    # In a group of its own, since a terminal signals whole groups: the command gets each signal once, from us.
    environment = os.environ | {"AMQP_URL": url}
    children.append(subprocess.Popen(_no_orphan("TERM", command), env=environment, process_group=0))
    code = children[0].wait()
    return code if code >= 0 else 128 - code


def _on_end(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.rabbitmq", description="Runs a command beside a broker.")
    parser.add_argument("--folder", type=Path, default=Path(".trivium/rabbitmq"), help="keeps the queues between runs")
    parser.add_argument("--port", type=int, default=5672, help="another one is used where this one is taken")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    if os.environ.get("AMQP_URL"):
        os.execvp(options.command[0], options.command)  # noqa: S606 - there is nothing to stop afterwards
    _on_end(_leave)
    begun = time.monotonic()
    print(f"Starting RabbitMQ in {options.folder} ...", file=sys.stderr, flush=True)
    try:
        with Node(options.folder, options.port if _is_free(options.port) else None) as node:
            print(
                f"RabbitMQ is ready at {node.url} after {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True
            )
            return _run(options.command, node.url)
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
