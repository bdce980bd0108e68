"""Trivium as users run it: `main.py` in a process of its own, on free ports."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class TriviumProcess:
    """A running `main.py`, its log lines and the addresses of its doors."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []
        self.doors: dict[str, str] = {}
        self.admin = ""
        self._reading: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()

    @property
    def rest(self) -> str:
        return self.doors["rest"]

    @property
    def grpc(self) -> str:
        return self.doors["grpc"]

    async def logged(self, event: str) -> dict[str, object]:
        """The first line about `event`, as soon as it is there. Fails if the process ends without one."""
        assert self._reading is not None
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if line.get("message") == event:
                    return line
            seen = len(self.lines)
            if self._reading.done():
                raise AssertionError(f"ended without {event!r}: {self.lines}")
            self._grown.clear()
            if seen == len(self.lines):
                await self._grown.wait()

    async def up(self) -> None:
        await self.logged("trivium is up")
        for line in self.lines:
            if line.get("message") == "door is open":
                self.doors[str(line["trivium.door"])] = str(line["trivium.address"])
            elif line.get("message") == "admin listener is open":
                self.admin = str(line["trivium.address"])

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    def memory_bytes(self) -> int:
        """What it occupies of the machine's memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def read(self) -> None:
        self._reading = asyncio.create_task(self._read(), name="log lines")

    async def closed(self) -> None:
        if self._reading is not None:
            await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:
                self.lines.append({"message": line.decode(errors="replace").strip()})
            self._grown.set()
        self._grown.set()


@asynccontextmanager
async def trivium_process(
    *arguments: str, python: str = sys.executable, environment: Mapping[str, str] | None = None
) -> AsyncIterator[TriviumProcess]:
    """`main.py` with these arguments and variables, up; killed at the end unless it ended before."""
    process = await asyncio.create_subprocess_exec(
        python,
        "main.py",
        *("--rest-port=0", "--grpc-port=0", "--admin-port=0", "--log-format=json", *arguments),
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        stderr=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
    )
    found = TriviumProcess(process)
    found.read()
    try:
        await found.up()
        yield found
    finally:
        await found.end(signal.SIGKILL)
        await found.closed()
