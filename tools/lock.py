"""Locks what setup.cfg declares, with hashes, for every platform and Python from 3.11 on.

python -m tools.lock              takes in what setup.cfg changed and keeps every other pin
python -m tools.lock --upgrade    takes the newest versions
python -m tools.lock --check      exits 1 if a lock is out of date; writes nothing
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIME, DEV, DEPLOY = Path("requirements.txt"), Path("requirements-dev.txt"), Path("requirements-deploy.txt")
BENCH = Path("bench/requirements.txt")
LOCKS = (RUNTIME, DEV, DEPLOY, BENCH)
# What a build of the metadata reads.
SOURCES = (Path("pyproject.toml"), Path("setup.cfg"), Path("README.md"), Path("core/__init__.py"))


def compile_lock(folder: Path, target: Path, *options: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"]
    command += ["--generate-hashes", "--no-emit-index-url", "--custom-compile-command=make lock"]
    subprocess.run([*command, *options, f"--output-file={target}", "setup.cfg"], cwd=folder, check=True)


def compile_locks(folder: Path, *options: str) -> None:
    """Compiles in a copy, since a build of the metadata litters, and keeps the pins of the locks that it finds."""
    for path in (*SOURCES, *LOCKS):
        if path.exists():
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copy(path, folder / path)
    compile_lock(folder, RUNTIME, "--extra=all", *options)
    # The constraint keeps a pin the same in all.
    compile_lock(folder, DEV, "--extra=all", "--extra=dev", f"--constraints={RUNTIME}", *options)
    compile_lock(folder, DEPLOY, "--extra=deploy", f"--constraints={DEV}", *options)
    compile_lock(folder, BENCH, "--extra=all", "--extra=bench", f"--constraints={RUNTIME}", *options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description="Locks what setup.cfg declares.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_locks(folder, *(["--upgrade"] if options.upgrade else []))
        stale = [path for path in LOCKS if not path.exists() or path.read_text() != (folder / path).read_text()]
        for path in stale:
            if options.check:
                print(f"{path} is not what setup.cfg asks for: run `make lock`.", file=sys.stderr)
            else:
                shutil.copy(folder / path, path)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
