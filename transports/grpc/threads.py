"""The threads that gRPC's core starts for itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def patient() -> Iterator[None]:
    """Threads that are started within wait for the CPU when they wake up, and do not take it from the loop.

    A call wakes gRPC's threads several times. Each of them would run at once, for one event, with the loop put aside:
    nearly a third of the CPU of a `Publish` where they share a core (decision 022). With SCHED_BATCH (sched(7)) they
    get their share as ever, but run when the loop waits, or has had its time slice, and find several events. Threads
    inherit it from who starts them. Whoever chose another policy for the process keeps it, and so does a system that
    has none of this.
    """
    changed = False
    with suppress(OSError):  # the C library has no such call, or a sandbox forbids it
        if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            changed = True
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
