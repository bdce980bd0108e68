"""What the machine itself takes, measured in the same run: the disk, and the way between the cores."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.cases.rest import FDATASYNC, fdatasync
from bench.contests import Case, Work
from bench.figures import Sample, percentile
from bench.ground import Ground
from bench.servers import HOST, OURS, free_port, started

_MESSAGE = b"m" * 64


@contextmanager
def loopback(ground: Ground) -> Iterator[Work]:
    """64 bytes to a process on the server's core and back, over TCP on the loopback interface."""
    port = free_port()
    with started([OURS, "-m", "bench.echo", str(port)], ground.server_core, ground.fresh("echo.log")) as server:
        server.await_port(port)
        with socket.create_connection((HOST, port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def work(seconds: float) -> Sample:
                taken = []
                begun = last = time.perf_counter()
                while last - begun < seconds:
                    connection.sendall(_MESSAGE)
                    connection.recv(len(_MESSAGE))
                    now = time.perf_counter()
                    taken.append((now - last) * 1e3)
                    last = now
                rate = len(taken) / (last - begun)
                taken.sort()
                return Sample(rate=rate, p50_ms=percentile(taken, 0.5), p99_ms=percentile(taken, 0.99))

            yield work


REFERENCES = Case(
    name="references",
    title="references",
    contestants={FDATASYNC: fdatasync, "loopback round trip of 64 B (Python at both ends)": loopback},
)
