"""Trivium itself, except that publishing stores nothing: what a durable store costs."""

import asyncio
import os
import sys
from asyncio import Future
from collections.abc import Sequence
from contextlib import ExitStack

from dependency_injector import providers

import main
from container import Container
from core.logs import configure_logging
from core.messages import Message, Published
from core.settings import MEMORY
from core.stores.sqlite import SqliteLog


class Nowhere(SqliteLog):
    """A log in memory that gives offsets and forgets the messages."""

    _head = 0

    def append(self, topic: str, messages: Sequence[Message], size: int) -> Future[tuple[Published, ...]]:
        first = self._head + 1
        self._head += len(messages)
        answered: Future[tuple[Published, ...]] = asyncio.get_running_loop().create_future()
        answered.set_result(
            tuple(Published(topic, offset, message.id, False) for offset, message in enumerate(messages, first))
        )
        return answered


def run() -> int:
    settings, _ = main.configure([*sys.argv[1:], f"--data-dir={MEMORY}"], os.environ)
    configure_logging(settings.log_level, settings.log_format)
    container = Container(settings=settings)
    original = container.log
    container.log.override(providers.Singleton(Nowhere, *original.args))
    with ExitStack() as process, asyncio.Runner(loop_factory=main._loop_factory()) as runner:
        return runner.run(main.serve(container, process))


if __name__ == "__main__":
    sys.exit(run())
