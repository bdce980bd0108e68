"""Named checks of the parts of the service, told once per change."""

from collections.abc import Callable
from enum import StrEnum

import structlog
from msgspec import Struct

log = structlog.get_logger("trivium.health")


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"  # impaired, but the service as a whole does its work
    FAILED = "failed"  # the service can't do its work


class Check(Struct, frozen=True):
    state: State
    detail: str


class Health:
    """What is known of each part. The service is ready while no check has failed and it is not draining."""

    def __init__(self) -> None:
        self.checks: dict[str, Check] = {}
        self.draining = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        return not self.draining and all(check.state is not State.FAILED for check in self.checks.values())

    def report(self, name: str, state: State, detail: str = "") -> None:
        """Set a check; a change of its state is logged and told to the listeners, a repetition is not."""
        before = self.checks.get(name, Check(State.OK, "")).state
        self.checks[name] = Check(state, detail)
        if before is state:
            return
        if state is State.OK:
            log.info("part is well", part=name, detail=detail)
        else:
            log.warning("part is not well", part=name, state=str(state), detail=detail)
        self._tell()

    def drain(self) -> None:
        """Readiness off, for good."""
        self.draining = True
        self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
