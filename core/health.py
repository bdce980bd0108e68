"""Named checks of the parts of the service, told once per change."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

import structlog
from msgspec import Struct

from core.telemetry import vocabulary
from core.telemetry.figures import Figure

log = structlog.get_logger("trivium.health")


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"  # impaired, but the service as a whole does its work
    FAILED = "failed"  # the service can't do its work


#: What it means that a part is not well, and what to do.
ADVICE: Mapping[str, str] = {
    "store": "Publishing is refused, reading goes on. Free space on the disk of --data-dir, or see what slows it down.",
    "broker": "REST and gRPC go on; what is published waits in the log and is relayed later. "
    "See that RabbitMQ runs, has memory and disk, and is the one of --amqp-url.",
    "inbox": "Messages wait in RabbitMQ, in their order, and are taken once the store takes them. "
    "Those that can never be stored wait until RabbitMQ takes dead letters; the others go on.",
    "relay": "Messages wait in the log, in their order.",
    "core": "Publishing is refused, and last answers are repeated for a while. "
    "See that the core runs, and that its addresses are those of --core.",
}


class Check(Struct, frozen=True):
    state: State
    detail: str


_SEVERITY = {State.OK: 0, State.DEGRADED: 1, State.FAILED: 2}


class Health:
    """What is known of each part. The service is ready between start and drain, while no check has failed."""

    def __init__(self) -> None:
        self.checks: dict[str, Check] = {}
        self.starting = False
        self.draining = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        return not self.problem

    @property
    def problem(self) -> str:
        """Why the service is not ready, empty if it is."""
        if self.draining:
            return "the service is ending"
        if self.starting:
            return "the service is starting"
        failed = [name for name, check in self.checks.items() if check.state is State.FAILED]
        return f"failed: {', '.join(failed)}" if failed else ""

    def report(self, name: str, state: State, detail: str = "") -> None:
        """Set a check; a change of its state is logged and told to the listeners, a repetition is not."""
        before = self.checks.get(name, Check(State.OK, "")).state
        self.checks[name] = Check(state, detail)
        if before is state:
            return
        if state is State.OK:
            log.info("part is well", part=name, detail=detail)
        else:
            log.warning("part is not well", part=name, state=str(state), detail=detail, advice=ADVICE.get(name))
        self._tell()

    def start(self) -> None:
        """Not ready before `started`."""
        self.starting = True

    def started(self) -> None:
        self.starting = False
        self._tell()

    def drain(self) -> None:
        """Readiness off, for good."""
        self.draining = True
        self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def told(self) -> dict[str, dict[str, str]]:
        """All checks, as `/readyz?verbose` tells them."""
        return {name: {"state": check.state, "detail": check.detail} for name, check in self.checks.items()}

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.READY.of(int(self.ready))
        for name, check in self.checks.items():
            yield vocabulary.CHECK.of(_SEVERITY[check.state], name)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
