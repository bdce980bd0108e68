"""Bare SQLite: pages of 1,000 rows after a cursor, over a whole store that Trivium wrote, through apsw."""

import json
import sys
import time
from pathlib import Path

import apsw

PAGE = (
    "SELECT position, topic, id, source, type, time, time_given, content_type, subject, key, attributes, data "
    "FROM messages WHERE position > ? ORDER BY position LIMIT 1000"
)

database = apsw.Connection(str(Path(sys.argv[1]) / "trivium.db"))
count = cursor = 0
begun, cpu = time.perf_counter(), time.process_time()
while rows := database.execute(PAGE, (cursor,)).fetchall():
    cursor = rows[-1][0]
    count += len(rows)
took, cpu = time.perf_counter() - begun, time.process_time() - cpu
print(json.dumps({"count": count, "seconds": took, "cpu_seconds": cpu}))
