"""Writes dist/trivium.cdx.json: what a released Trivium consists of, in CycloneDX, from the lock (`make sbom`).

The lock is installed into a folder of its own and read from there, because only installed packages tell their licences
and what they need.
"""

import configparser
import subprocess
import sys
import tempfile
from pathlib import Path

from core import VERSION

TARGET = Path("dist/trivium.cdx.json")


def install(folder: Path) -> Path:
    """The Python of an environment with exactly what the lock says."""
    run = [sys.executable, "-m"]
    subprocess.run([*run, "venv", "--without-pip", str(folder)], check=True)
    pip = [*run, "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check", "--quiet"]
    options = ["--require-hashes", "--only-binary", ":all:", "--no-compile"]
    subprocess.run([*pip, "install", *options, "-r", "requirements.txt"], check=True)
    return folder / "bin/python"


def root_component() -> str:
    """The part of setup.cfg that the SBOM tells of ourselves, as the pyproject.toml that the tool reads."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    needed = config["options"]["install_requires"] + "".join(
        text for extra, text in config["options.extras_require"].items() if extra not in ("all", "dev", "deploy")
    )
    requirements = ",\n".join(f"  '{line}'" for line in needed.replace("'", '"').splitlines() if line)
    metadata = config["metadata"]
    return (
        f'[project]\nname = "{metadata["name"]}"\nversion = "{VERSION}"\n'
        f'description = "{metadata["description"]}"\nlicense = "{metadata["license_expression"]}"\n'
        f"dependencies = [\n{requirements}\n]\n"
    )


def main() -> int:
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        project = Path(name, "pyproject.toml")
        project.write_text(root_component())
        python = install(Path(name, "installed"))
        tool = [str(Path(sys.executable).with_name("cyclonedx-py")), "environment", str(python)]
        subprocess.run([*tool, "--pyproject", str(project), "--output-reproducible", "-o", str(TARGET)], check=True)
    print(f"{TARGET} is written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
