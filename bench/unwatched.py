"""Trivium itself, except that nothing is counted or timed at its doors: what metrics cost."""

import sys

import main
from core.ports import MessageService
from core.telemetry.meter import Instrument, Meter


def _nothing(*_: object, **__: object) -> None:
    """Count nothing."""


def _as_it_is(_: Meter, service: MessageService) -> MessageService:
    return service


if __name__ == "__main__":
    Instrument.ended = _nothing  # type: ignore[method-assign]
    Meter.counting = _as_it_is  # type: ignore[method-assign,assignment]
    sys.exit(main.run())
