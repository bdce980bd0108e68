"""A process that is killed while it stores."""

import asyncio
import random
import sys
from collections import defaultdict
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.core.opening import a_log, append, offsets, some, stored_in

ROOT = Path(__file__).parents[2]

PUBLISHER = """
import asyncio, sys
from tests.core.opening import a_log, append, some

async def publisher(log, number):
    while True:
        for one in await append(log, f"t{number % 3}", *some(1 + number % 2)):
            print(one.topic, one.offset, one.id, flush=True)

async def main():
    async with a_log(sys.argv[1]) as log:
        await asyncio.gather(*(publisher(log, number) for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("round_", range(3))
async def test_what_was_acknowledged_survives_a_kill_once_and_in_place(tmp_path: Path, round_: int) -> None:
    """Killed twice at a random moment and reopened, each one is at its offset, and no offset is missing."""
    acknowledged: dict[str, dict[int, str]] = defaultdict(dict)
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUBLISHER, str(tmp_path), cwd=ROOT, stdout=PIPE
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(random.randrange(1, 300))]  # noqa: S311
        process.kill()
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
        for line in lines:
            if line.endswith(b"\n"):
                topic, offset, id_ = line.decode().split()
                acknowledged[topic][int(offset)] = id_
        async with a_log(str(tmp_path)) as log:
            for topic in ("t0", "t1", "t2"):
                found = await stored_in(log, topic)
                assert offsets(found) == list(range(1, len(found) + 1))
                ids = [one.message.id for one in found]
                assert len(set(ids)) == len(ids)
                assert {offset: ids[offset - 1] for offset in acknowledged[topic]} == acknowledged[topic]
                assert (await append(log, topic, *some(1)))[0].offset == len(found) + 1
    assert acknowledged
