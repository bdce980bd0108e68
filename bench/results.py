"""A run as it is kept in a file, so that the report can be made again."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.figures import Sample
from bench.servers import PEERS, ROOT

_OURS = ("apsw", "dependency-injector", "grpcio", "hypercorn", "msgspec", "pika", "protobuf", "starlette", "uvloop")
_PEERS = ("aio-pika", "aiosqlite", "fastapi", "faststream", "flask", "granian", "gunicorn", "sse-starlette", "uvicorn")


class Machine(Struct, frozen=True):
    """Where and with what it was measured."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    file_system: str
    python: str
    versions: Mapping[str, str]
    commit: str
    #: The load average of the last minute before the run: above a few tenths others were at work.
    load_before: float


class Results(Struct, frozen=True):
    """All figures of one run: by case and contestant its rounds, and why cases failed."""

    when: datetime
    quick: bool
    rounds: int
    seconds: float
    machine: Machine
    references: Mapping[str, Sequence[Sample]]
    samples: Mapping[str, Mapping[str, Sequence[Sample]]]
    failures: Mapping[str, str]
    #: Cases that were measured anew: when, and of which commit.
    again: Mapping[str, str] = {}

    def with_again(self, later: "Results") -> "Results":
        """This run with some of its cases as another run of the same length found them."""
        told = f"{later.when:%Y-%m-%d %H:%M} UTC, commit {later.machine.commit}"
        anew = {*later.samples, *later.failures}
        return msgspec.structs.replace(
            self,
            samples={**self.samples, **later.samples},
            failures={name: why for name, why in self.failures.items() if name not in anew} | dict(later.failures),
            again={**self.again, **dict.fromkeys(sorted(anew), told)},
        )


def write(results: Results, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def read(path: Path) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def this_machine(folder: Path) -> Machine:
    """The machine; `folder` is on the disk that is measured."""
    return Machine(
        cpu=_after(Path("/proc/cpuinfo"), "model name"),
        cores=os.cpu_count() or 0,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        file_system=_file_system(folder),
        python=platform.python_version(),
        versions=dict(_versions()),
        commit=_output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10").strip(),
        load_before=os.getloadavg()[0],
    )


def _versions() -> Iterator[tuple[str, str]]:
    for name in _OURS:
        yield name, version(name)
    code = f"from importlib.metadata import version\nfor name in {_PEERS}: print(version(name))"
    yield from zip(_PEERS, _output(str(PEERS / "python"), "-c", code).split(), strict=True)
    yield "wrk", _output("wrk", "--version").split()[1]
    yield "h2load", _output("h2load", "--version").split()[1].removeprefix("nghttp2/")


def _output(*command: str) -> str:
    # wrk tells its version with an exit code of 1
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _after(path: Path, label: str) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(label):
            return line.partition(":")[2].strip()
    return "unknown"


def _file_system(folder: Path) -> str:
    found = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) > len(found[0]):
            found = (point, kind)
    return found[1]
