"""Bare SQLite: groups of 100 rows in Trivium's own tables, through apsw, each committed durably."""

import json
import sys
import time
from pathlib import Path

import apsw

from core.messages import uuid7
from core.stores.schema import migrate

GROUP = 100
INSERT = "INSERT INTO messages VALUES (?, 1, ?, 'urn:trivium', 'trivium.message', ?, 0, 'application/json', ?, ?, ?, ?)"

folder, size, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
folder.mkdir()
database = apsw.Connection(str(folder / "bare.db"))
database.pragma("journal_mode", "wal")
database.pragma("synchronous", "full")
migrate(database)
data = b"m" * size
written = 0
begun, cpu = time.perf_counter(), time.process_time()
while time.perf_counter() - begun < seconds:
    now = time.time_ns() // 1000
    first = 1 << 40 | written + 1
    database.execute("BEGIN IMMEDIATE")
    database.executemany(INSERT, ((first + n, uuid7(), now, None, None, None, data) for n in range(GROUP)))
    database.execute("COMMIT")
    written += GROUP
took, cpu = time.perf_counter() - begun, time.process_time() - cpu
print(json.dumps({"count": written, "seconds": took, "cpu_seconds": cpu}))
