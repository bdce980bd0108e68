"""The access log: a line per request, for those who want it."""

import random
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import structlog

log = structlog.get_logger("trivium.access")

AccessLogMode: TypeAlias = Literal["off", "sampled", "full"]


class AccessLog:
    """Off, for a share of the requests, or for all."""

    def __init__(self, mode: AccessLogMode, rate: float) -> None:
        """`rate` is the share when it is `sampled`."""
        self._rate = {"off": 0.0, "sampled": rate, "full": 1.0}[mode]

    def picks(self) -> bool:
        """Whether this request is to have a line."""
        return self._rate > 0 and (self._rate >= 1 or random.random() < self._rate)  # noqa: S311 - a sample

    def write(self, door: str, operation: str, code: str, seconds: float, subject: Mapping[str, Any]) -> None:
        """`subject` holds what the door knows, under the names of the Elastic Common Schema."""
        fields = {
            "event.action": operation,
            "event.outcome": "success" if code == "ok" else "failure",
            "event.duration": round(seconds * 1e9),
            "network.protocol": door,
            "error.code": None if code == "ok" else code,
            **subject,
        }
        log.info("request", **{name: value for name, value in fields.items() if value is not None})
