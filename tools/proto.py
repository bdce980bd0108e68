"""Generates Python from proto/**/*.proto, beside the sources.

python -m tools.proto            writes what is generated
python -m tools.proto --check    exits 1 if what stands there is not what would be written
"""

import argparse
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path("proto")
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
# protoc writes imports relative to -I, whereas here that folder is itself a package.
OWN_IMPORT = re.compile(r"^from trivium\b", re.MULTILINE)


def generate(target: Path) -> None:
    sources = sorted(str(path) for path in ROOT.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if code := protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, *sources]):
        raise SystemExit(code)
    for path in generated(target):
        path.write_text(OWN_IMPORT.sub("from proto.trivium", path.read_text()))


def generated(root: Path) -> list[Path]:
    return [path for pattern in PATTERNS for path in root.rglob(pattern)]


def contents(root: Path) -> dict[Path, str]:
    return {path.relative_to(root): path.read_text() for path in generated(root)}


def check() -> int:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted, found = contents(Path(folder)), contents(ROOT)
    stale = sorted(str(ROOT / path) for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    for path in stale:
        print(f"{path} is not what its .proto generates: run `make proto`.", file=sys.stderr)
    return 1 if stale else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.proto", description="Generates Python from proto/.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when something is out of date")
    if parser.parse_args().check:
        return check()
    for path in generated(ROOT):
        path.unlink()
    generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
