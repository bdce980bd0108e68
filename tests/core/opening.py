"""How the tests of the core make messages and logs."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from typing import Any

from core.health import Health
from core.messages import Message, Published, StoredMessage, new_message
from core.ports import MessageLog, SystemClock
from core.settings import Settings
from core.stores.sqlite import LogBounds, SqliteLog


def a_log(data_dir: str, health: Health | None = None, **settings: Any) -> SqliteLog:
    """A log to be opened, with bounds as the settings say."""
    return SqliteLog(data_dir, LogBounds.of(Settings(**settings)), SystemClock(), health or Health())


def some(count: int, data: bytes = b"data") -> list[Message]:
    """Messages with ids of their own."""
    return [new_message(data) for _ in range(count)]


async def append(log: MessageLog, topic: str, *messages: Message) -> tuple[Published, ...]:
    """Store messages as one unit."""
    return await log.append(topic, messages, sum(len(message.data) for message in messages))


async def stored_in(log: MessageLog, topic: str) -> list[StoredMessage]:
    """Everything in a topic."""
    found: list[StoredMessage] = []
    while page := await log.read(topic, len(found), 1000, 1024 * 1024):
        found += page
    return found


def offsets(stored: Sequence[StoredMessage]) -> list[int]:
    return [one.offset for one in stored]


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until something is so that tells nobody."""
    while not condition():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)


def alive(kind: type) -> int:
    """How many objects of that class there are, or of one below it."""
    return sum(issubclass(type(one), kind) for one in gc.get_objects())


async def publishers(log: MessageLog, count: int, messages: int, topics: int = 1, data: bytes = b"data") -> None:
    """So many at once, each awaiting one message before the next."""

    async def publisher(number: int) -> None:
        for _ in range(messages):
            await append(log, f"t{number % topics}", *some(1, data))

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(publisher(number))
