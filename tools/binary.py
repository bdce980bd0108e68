"""Makes dist/trivium: one file that runs where there is nothing but a Python from 3.11 to 3.13 (`make binary`).

It holds the wheels for each of these Pythons, of this machine's kind: glibc 2.28 or later and the same processor. The
wheels are fetched by pip, since only pip checks the hashes of the lock.
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging import tags

TARGET = Path("dist/trivium")
MINORS = (11, 12, 13)
#: As in the image; `testing` is for those who develop.
SOURCES = ("container.py", "healthcheck.py", "keys.py", "main.py", "core", "proto", "transports")
#: The oldest glibc that all wheels of the lock run on, and those before it, which they may name.
GLIBC_MINORS = range(28, 4, -1)


def platforms() -> list[str]:
    machine = platform.machine()
    older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    found = []
    for minor in GLIBC_MINORS:
        found.append(f"manylinux_2_{minor}_{machine}")
        if minor in older:
            found.append(f"{older[minor]}_{machine}")
    return found


def fetch(wheels: Path, minor: int) -> None:
    """The wheels of the lock for that Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    target = ["--implementation=cp", f"--python-version=3.{minor}", f"--abi=cp3{minor}", "--abi=abi3", "--abi=none"]
    target += [f"--platform={name}" for name in platforms()]
    lock = ["--require-hashes", "--only-binary=:all:", "--requirement=requirements.txt"]
    subprocess.run([*pip, *target, *lock, f"--dest={wheels}"], check=True)


def describe(minor: int) -> dict[str, Any]:
    """That Python on such a machine, as pex wants it described."""
    version, abi = (3, minor), f"cp3{minor}"
    fitting = [*tags.cpython_tags(version, [abi], platforms()), *tags.compatible_tags(version, abi, platforms())]
    return {
        "compatible_tags": [str(tag) for tag in fitting],
        "marker_environment": {
            "implementation_name": "cpython",
            "implementation_version": f"3.{minor}.0",
            "os_name": "posix",
            "platform_machine": platform.machine(),
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"3.{minor}.0",
            "python_version": f"3.{minor}",
            "sys_platform": "linux",
        },
    }


def build(folder: Path) -> None:
    sources, wheels = folder / "sources", folder / "wheels"
    sources.mkdir()
    for path in map(Path, SOURCES):
        if path.is_dir():
            shutil.copytree(path, sources / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, sources / path)
    options = [f"--pre-resolved-dists={wheels}", f"--sources-directory={sources}", "--requirement=requirements.txt"]
    for minor in MINORS:
        fetch(wheels, minor)
        description = folder / f"python3.{minor}.json"
        description.write_text(json.dumps(describe(minor)))
        options.append(f"--complete-platform={description}")
    # As an environment that is unpacked once; without it each start pays a second for finding its libraries.
    options += ["--venv", "--entry-point=main:run", "--python-shebang=/usr/bin/env python3", f"--output-file={TARGET}"]
    subprocess.run([sys.executable, "-m", "pex", *options], check=True)


def main() -> int:
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        build(Path(name))
    print(f"{TARGET} is made: {TARGET.stat().st_size / 1024 / 1024:.0f} MiB", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
