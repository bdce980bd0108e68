"""Where a run takes place: the two cores, the folder, the broker."""

import fcntl
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.rabbitmq import Node


class Occupied(Exception):
    """Two runs at once would only measure each other."""


class Ground:
    """The server's core and the load's, a folder on the disk that is measured, and a broker once it is asked for.

    The broker takes the load's core, which this program is held to: what it starts inherits that.
    """

    def __init__(self, folder: Path, cores: tuple[int, int], *, quick: bool) -> None:
        self.folder = folder
        self.server_core, self.load_core = cores
        self.quick = quick
        self._stack = ExitStack()
        self._node: Node | None = None
        self._made = 0

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._stack.enter_context(self.folder.with_suffix(".lock").open("wb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stack.close()
            raise Occupied(f"another run uses {self.folder}") from error
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._node is not None:
            self._node.stop()
        shutil.rmtree(self.folder)
        self._stack.close()

    @property
    def amqp_url(self) -> str:
        if self._node is None:
            node = Node(self.folder / "rabbitmq")
            node.start()
            self._node = node
        return self._node.url

    def fresh(self, name: str) -> Path:
        """A path of that name for a file or a folder that is not there yet."""
        self._made += 1
        return self.folder / f"{self._made:03}-{name}"
