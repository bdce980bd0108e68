"""`python main.py healthcheck`: asks a Trivium on this machine whether it is ready; for containers without curl.

It takes the flags and the environment of the service, so that it finds the same ports.
"""

import http.client
import sys
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from core.settings import Settings

#: For gRPC's answer, and for each piece of one over HTTP; under the 5 s that the container's HEALTHCHECK gives.
_SECONDS = 3.0
#: Of what an answer says, as much as fits on a line of a log.
_MOST_TEXT = 200


class Listener(NamedTuple):
    """Where readiness can be asked, and how: `ask` says why it is not ready, or nothing if it is."""

    host: str
    port: int
    ask: Callable[[str, int], str]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def check(settings: Settings) -> int:
    """Ask the first listener that is configured; 0 and a line on stdout if ready, else 1 and a line on stderr."""
    listener = next(_listeners(settings), None)
    if listener is None:
        only = ": beside --tls-cert only the admin listener can be asked" if settings.tls_cert else ""
        return _told(f"not ready: no listener has a port of its own to be asked at{only}")
    try:
        reason = listener.ask(listener.host, listener.port)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
    if reason:
        return _told(f"not ready: {listener}: {reason}")
    print(f"ready: {listener}")
    return 0


def _told(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1


def _listeners(settings: Settings) -> Iterator[Listener]:
    """Those at a known port; first the one that is made to be asked, and tells of all doors.

    Doors with TLS are left out: their certificate is not for loopback, and they may want one of the client.
    """
    if settings.admin and settings.admin_port:
        yield Listener(_reachable(settings.admin_host), settings.admin_port, partial(_ask_http, query="?verbose"))
    if settings.tls_cert:
        return
    if settings.rest and settings.rest_port:
        yield Listener(_reachable(settings.rest_host), settings.rest_port, _ask_http)
    if settings.grpc and settings.grpc_port:
        yield Listener(_reachable(settings.grpc_host), settings.grpc_port, _ask_grpc)


def _reachable(host: str) -> str:
    """The address itself, or loopback where it stands for every interface."""
    try:
        address = ip_address(host)
    except ValueError:
        return host or "127.0.0.1"
    return {4: "127.0.0.1", 6: "::1"}[address.version] if address.is_unspecified else host


def _ask_http(host: str, port: int, query: str = "") -> str:
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", f"/readyz{query}")
        answer = connection.getresponse()
        text = answer.read(_MOST_TEXT).decode(errors="replace")
    finally:
        connection.close()
    return "" if answer.status == http.HTTPStatus.OK else f"{answer.status} {text}"


def _ask_grpc(host: str, port: int) -> str:
    import grpc
    from grpc_health.v1 import health_pb2
    from grpc_health.v1.health_pb2_grpc import HealthStub

    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"
    serving = health_pb2.HealthCheckResponse.SERVING
    return "" if answer.status == serving else health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
