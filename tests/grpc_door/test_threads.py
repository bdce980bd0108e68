"""How the threads of gRPC's core are scheduled."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transports.grpc.threads import patient

ROOT = Path(__file__).parents[2]


def _is_ordinary() -> bool:
    """Whether threads here are under the policy that is changed, which musl and some sandboxes do not tell."""
    try:
        return os.sched_getscheduler(0) == os.SCHED_OTHER
    except (AttributeError, OSError):
        return False


ordinary = pytest.mark.skipif(not _is_ordinary(), reason="threads here are under no policy, or another one")

#: In a process of its own: gRPC starts its threads once in each.
_SERVER = """
import asyncio, os
from core.settings import Settings
from core.telemetry.meter import Meter
from transports.grpc.server import Server

async def main():
    before = set(os.listdir("/proc/self/task"))
    server = Server([], 1, Meter.of("grpc", Settings()).operation("Unknown"))
    started = set(os.listdir("/proc/self/task")) - before
    print(len(started) > 0, {os.sched_getscheduler(int(one)) for one in started} == {os.SCHED_BATCH})
    await server.stop(None)

asyncio.run(main())
"""


def policy_of_a_thread_started_here() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(os.sched_getscheduler, 0).result()


@ordinary
def test_threads_that_are_started_within_are_patient() -> None:
    """Threads keep the policy under which they were started, and who started them has his own again."""
    with patient(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(os.sched_getscheduler, 0).result() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert policy_of_a_thread_started_here() == os.SCHED_OTHER


@ordinary
def test_another_policy_of_the_process_is_kept() -> None:
    """Who chose a policy for the process gets it for the threads of gRPC too."""

    def within() -> tuple[int, int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with patient():
            return os.sched_getscheduler(0), policy_of_a_thread_started_here()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() == (os.SCHED_IDLE, os.SCHED_IDLE)


@ordinary
def test_all_threads_of_a_server_are_patient() -> None:
    """Whatever a server of the door starts waits for its turn on the CPU."""
    done = subprocess.run(
        [sys.executable, "-c", _SERVER], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_a_system_that_knows_no_policies_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has the functions, and answers that there are none."""

    def none(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, name, none, raising=False)
    entered = False
    with patient():
        entered = True
    assert entered
