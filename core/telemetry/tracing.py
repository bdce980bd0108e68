"""Whether traces are wanted, by OpenTelemetry's own variables; its SDK is imported only if they are."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_RATE = "OTEL_TRACES_SAMPLER_ARG"
_HTTP = "http/protobuf"
_LIBRARY = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def is_wanted(environment: Mapping[str, str]) -> bool:
    """An exporter is named, or an endpoint to export to; and neither switched off."""
    exporter = environment.get(_EXPORTER, "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return bool(exporter) or any(environment.get(name) for name in _ENDPOINTS)


def problems(environment: Mapping[str, str]) -> list[str]:
    """What stands against the traces that are wanted."""
    if not is_wanted(environment):
        return []
    found = []
    if (exporter := environment.get(_EXPORTER, "otlp").strip().lower()) not in ("", "otlp"):
        found.append(f"{_EXPORTER}: can't export to {exporter!r}; there are otlp and none")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _HTTP)
    if protocol != _HTTP:
        found.append(f"{_PROTOCOLS[0]}: can't export by {protocol!r}; there is {_HTTP}")
    try:
        if not 0 <= float(environment.get(_RATE) or 1) <= 1:
            raise ValueError
    except ValueError:
        found.append(f"{_RATE}: must be a number from 0 to 1")
    if not _is_installed():
        found.append("OTEL_*: opentelemetry is missing; install the extra `tracing`, or set OTEL_SDK_DISABLED=true")
    return found


def tracing(environment: Mapping[str, str]) -> Any:
    """A `core.telemetry.spans.Tracing`, or None where none is wanted."""
    if not is_wanted(environment):
        return None
    return import_module("core.telemetry.spans").Tracing(_rate(environment))


def _rate(environment: Mapping[str, str]) -> float | None:
    """The share of traces by the most usual sampler, whose decision is a matter of one number; None for others."""
    if environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() != "parentbased_traceidratio":
        return None
    return float(environment.get(_RATE) or 1)


def _is_installed() -> bool:
    try:
        return find_spec(_LIBRARY) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
