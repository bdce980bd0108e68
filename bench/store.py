"""Fills a store fast: `python -m bench.store FOLDER COUNT SIZE`.

Through the product's own writer, but without waiting for the disk: only the end is made durable.
"""

import asyncio
import sys
from pathlib import Path

import apsw

from core.messages import new_message
from core.ports import SystemClock
from core.stores.groups import Unit
from core.stores.schema import migrate
from core.stores.writer import Writer

TOPIC = "t"
_GROUP = 1000


def fill(folder: Path, count: int, size: int) -> None:
    """Messages of `size` bytes at the offsets 1 to `count` of the topic."""
    folder.mkdir(parents=True)
    connection = apsw.Connection(str(folder / "trivium.db"))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "off")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("cache_size", -256 * 1024)
    migrate(connection)
    writer = Writer(connection, SystemClock(), max_topics=1)
    data = json_of(size)
    loop = asyncio.new_event_loop()
    for first in range(0, count, _GROUP):
        made = [new_message(data, content_type="application/json") for _ in range(min(_GROUP, count - first))]
        unit = Unit(TOPIC, made, size * len(made), loop.create_future())
        writer.commit([unit], {})
        if unit.error is not None:
            raise unit.error
        writer.tidy(idle=False)
    connection.pragma("synchronous", "full")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    loop.close()


def json_of(size: int) -> bytes:
    """A JSON document of that many bytes."""
    frame = b'{"message": ""}'
    return frame[:-2] + b"m" * (size - len(frame)) + frame[-2:]


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
