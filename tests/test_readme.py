"""The README's examples do what it says."""

import asyncio
import doctest
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.process import ROOT, trivium_process
from tools.rabbitmq import Node

README = (ROOT / "README.md").read_text()
AUTHENTICATION = re.search(r"^## Authentication\n.*?(?=^## )", README, re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(console|python|toml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


async def output(*command: str, may_fail: bool = False, env: dict[str, str] | None = None) -> str:
    """What a command prints; it has to succeed, or that is part of the example."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate()
    assert may_fail or process.returncode == 0, complaints.decode()
    return printed.decode()


@pytest.mark.skipif(not (os.environ.get("CI") or shutil.which("curl")), reason="the examples use curl")
async def test_examples(tmp_path: Path, rabbitmq_node: Node) -> None:
    """Each command prints what stands below it (`...` is anything), each program runs, against one fresh Trivium."""
    checker = doctest.OutputChecker()
    programs: list[str] = []
    assert AUTHENTICATION
    async with trivium_process(f"--data-dir={tmp_path / 'data'}", f"--amqp-url={rabbitmq_node.url}") as trivium:
        await trivium.logged("broker is connected")
        places = {
            "localhost:8080": urlsplit(trivium.rest).netloc,
            "localhost:50051": trivium.grpc,
            "localhost:5672": urlsplit(rabbitmq_node.url).netloc.partition("@")[2],
        }
        for kind, text in BLOCK.findall(README.replace(AUTHENTICATION[0], "")):
            for default, actual in places.items():
                text = text.replace(default, actual)
            if kind == "console":
                for command, expected in COMMAND.findall(text):
                    patient = command.replace("--max-time 1", "--max-time 5")  # for a machine that stalls
                    printed = await output("bash", "-c", patient, may_fail=patient != command)
                    assert checker.check_output(expected.strip(), printed.strip(), doctest.ELLIPSIS), (command, printed)
            elif text.startswith("import "):
                programs.append(await output(sys.executable, "-c", text))
    assert programs == [
        "1 hello from REST\n2 hello from gRPC\n",
        "1 hello from REST\n2 hello from gRPC\n3 hello from AMQP\n",
    ]


@pytest.mark.skipif(not (os.environ.get("CI") or shutil.which("curl")), reason="the examples use curl")
async def test_examples_of_authentication(tmp_path: Path) -> None:
    """The same, against a Trivium with the policy that stands there; a key is kept from one command to the next."""
    assert AUTHENTICATION
    checker = doctest.OutputChecker()
    policy = [text for kind, text in BLOCK.findall(AUTHENTICATION[0]) if kind == "toml"]
    (tmp_path / "policy.toml").write_text("".join(policy))
    flags = (f"--data-dir={tmp_path / 'data'}", "--auth=required", f"--policy={tmp_path / 'policy.toml'}", "--no-amqp")
    env = {"TRIVIUM_DATA_DIR": str(tmp_path / "data")}
    async with trivium_process(*flags) as trivium:
        for kind, text in BLOCK.findall(AUTHENTICATION[0]):
            text = text.replace("localhost:8080", urlsplit(trivium.rest).netloc).replace(
                "localhost:50051", trivium.grpc
            )
            text = text.replace(".venv/bin/python", sys.executable)
            if kind == "python":
                assert await output(sys.executable, "-c", text, env=env) == "hello\n"
            for command, expected in COMMAND.findall(text) if kind == "console" else ():
                *printed, env["KEY"] = (await output("bash", "-c", f"{command}\necho; echo -n $KEY", env=env)).split(
                    "\n"
                )
                assert checker.check_output(expected.strip(), "\n".join(printed).strip(), doctest.ELLIPSIS), command


async def test_the_split_is_configured_as_it_stands() -> None:
    """Each process of the split takes its command line."""
    (split,) = re.findall(r"^## Doors apart.*?^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    core, variable, *edges, _ = split.splitlines()
    assert len(edges) == 2
    for line in (core, *edges):
        command = line.partition("&")[0].replace(".venv/bin/python", sys.executable)
        assert await output("bash", "-c", f"{variable}\n{command} --check-config") == (
            "trivium: the configuration is valid\n"
        )


def test_every_setting_named_exists() -> None:
    """The README names no flag that the command line does not know."""
    from main import parser

    known = {flag for action in parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--[a-z-]+)", README)) - {"--require-hashes", "--x-y"}
    assert named <= known


pytestmark = pytest.mark.timeout(180)
