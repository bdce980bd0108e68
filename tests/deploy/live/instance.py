"""A Trivium that keeps its ports and its data when it is started again."""

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from signal import Signals

from tests.e2e.process import TriviumProcess, trivium_process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Instance:
    """`start` and `end` may follow one another."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.database = folder / "trivium.db"
        self._ports = {door: free_port() for door in ("rest", "grpc", "admin")}
        self._arguments = [*arguments, f"--data-dir={folder}"]
        self._arguments += [f"--{door}-port={port}" for door, port in self._ports.items()]
        self._stack = AsyncExitStack()
        self._trivium: TriviumProcess | None = None

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self._ports['rest']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self._ports['grpc']}"

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self._ports['admin']}"

    @property
    def pid(self) -> int:
        assert self._trivium is not None
        return self._trivium.process.pid

    async def start(self) -> None:
        self._trivium = await self._stack.enter_async_context(trivium_process(*self._arguments))

    def signal(self, number: Signals) -> None:
        assert self._trivium is not None
        self._trivium.process.send_signal(number)

    async def end(self, number: Signals) -> None:
        assert self._trivium is not None
        await self._trivium.end(number)
        await self._stack.aclose()

    async def close(self) -> None:
        await self._stack.aclose()
