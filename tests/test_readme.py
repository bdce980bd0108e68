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
BLOCKS = re.findall(r"^```(console|python)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


async def output(*command: str, may_fail: bool = False) -> str:
    """What a command prints; it has to succeed, or that is part of the example."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaints = await process.communicate()
    assert may_fail or process.returncode == 0, complaints.decode()
    return printed.decode()


@pytest.mark.skipif(not (os.environ.get("CI") or shutil.which("curl")), reason="the examples use curl")
async def test_examples(tmp_path: Path, rabbitmq_node: Node) -> None:
    """Each command prints what stands below it (`...` is anything), each program runs, against one fresh Trivium."""
    checker = doctest.OutputChecker()
    programs: list[str] = []
    async with trivium_process(f"--data-dir={tmp_path / 'data'}", f"--amqp-url={rabbitmq_node.url}") as trivium:
        await trivium.logged("broker is connected")
        places = {
            "localhost:8080": urlsplit(trivium.rest).netloc,
            "localhost:50051": trivium.grpc,
            "localhost:5672": urlsplit(rabbitmq_node.url).netloc.partition("@")[2],
        }
        for kind, text in BLOCKS:
            for default, actual in places.items():
                text = text.replace(default, actual)
            if kind == "console":
                for command, expected in COMMAND.findall(text):
                    printed = await output("bash", "-c", command, may_fail="--max-time" in command)
                    assert checker.check_output(expected.strip(), printed.strip(), doctest.ELLIPSIS), (command, printed)
            elif text.startswith("import "):
                programs.append(await output(sys.executable, "-c", text))
    assert programs == [
        "1 hello from REST\n2 hello from gRPC\n",
        "1 hello from REST\n2 hello from gRPC\n3 hello from AMQP\n",
    ]


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
