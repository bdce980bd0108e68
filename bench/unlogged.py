"""Trivium itself, except that it has no logs at all: what logs cost."""

import logging
import sys

import structlog

import main


def _off(*_: object, **__: object) -> None:
    """Instead of configuring them."""


if __name__ == "__main__":
    main.configure_logging = _off  # type: ignore[attr-defined]
    logging.disable()
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent, logger_factory=structlog.ReturnLoggerFactory())
    sys.exit(main.run())
