"""The gRPC door: the life of its server."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from core.closing import Closing
from core.gate import Gate
from core.health import Health
from core.settings import Settings
from core.telemetry.figures import Figure
from core.telemetry.meter import UNKNOWN, Meter
from transports.grpc import health as health_checks
from transports.grpc import keys, messages, reflection, tls
from transports.grpc.arrivals import Arrivals
from transports.grpc.calls import Calls
from transports.grpc.publishing import PublishStream
from transports.grpc.server import Server

if TYPE_CHECKING:
    from transports.tls.certificates import Certificates

#: Calls above our own bound: health checks, and those that are refused with the details that gRPC would leave out.
_SPARE_RPCS = 200
#: As much as REST takes; both bounds the same, because in between gRPC refuses at random.
_METADATA_BYTES = 32 * 1024
#: Time for peers to hang up once their calls have ended.
_GOODBYE_SECONDS = 1.0
#: `wait_for_termination` leaves its inner future alone only if it has a timeout, else cancelling it breaks `stop`.
_FOREVER_SECONDS = 1e9


class GrpcDoor:
    """`trivium.v1.Messages` and `Keys`, `grpc.health.v1.Health` and reflection on one port."""

    name = "grpc"

    def __init__(
        self, gate: Gate, health: Health, settings: Settings, certificates: "Certificates | None" = None
    ) -> None:
        self._certificates = certificates
        self._health = health
        self._settings = settings
        self._closing = Closing()
        self._arrivals = Arrivals()
        self._meter = Meter.of(self.name, settings)
        self._calls = Calls(gate, self._arrivals, self._meter, most=settings.grpc_rpcs)
        self._port = settings.grpc_port

    @property
    def address(self) -> str:
        return _address(self._settings.grpc_host, self._port)

    async def __aenter__(self) -> Self:
        """Raises `OSError` if it can't listen."""
        refused = self._meter.operation(UNKNOWN)
        self._server = Server(self._options(), self._settings.grpc_rpcs + _SPARE_RPCS, refused)
        self._add_services()
        self._port = self._listen()
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End streams, finish what is in flight.

        A peer that does not read can't be told that its stream ends: it is cut off after half of the drain time.
        One that merely does not hang up is waited for no longer than `_GOODBYE_SECONDS`.
        """
        self._closing.begin()
        self._arrivals.end()
        stopping = asyncio.create_task(self._server.stop(self._settings.drain_seconds / 2), name="grpc-stop")
        await asyncio.wait([stopping], timeout=_GOODBYE_SECONDS)
        await self._server.ended()
        await self._server.stop(None)
        await stopping
        await self._server.ended()  # the server's stop returns before they have (grpc/grpc#37239)

    def figures(self) -> Iterator[Figure]:
        yield from self._meter.figures()
        yield from self._calls.figures()

    async def wait(self) -> None:
        await self._server.wait_for_termination(_FOREVER_SECONDS)

    def _add_services(self) -> None:
        limits = self._settings.limits
        streamed = self._meter.operation("StreamedPublish")
        publish_stream = PublishStream(self._closing, streamed, limits=limits)
        ours = messages.Messages(publish_stream, limits=limits, has_log=not self._settings.core)
        services = (messages.SERVICE, keys.SERVICE, health_checks.SERVICE, reflection.SERVICE)
        names = [service.full_name for service in services]
        checks = health_checks.HealthChecks(self._health, self._closing, ("", *names[:2]))
        described = reflection.Reflection(self._closing, names).rpcs
        serve = self._server.add_registered_method_handlers
        serve(messages.SERVICE.full_name, self._calls.handlers(messages.SERVICE, ours.rpcs, bounded=True))
        serve(keys.SERVICE.full_name, self._calls.handlers(keys.SERVICE, keys.Keys().rpcs, bounded=True))
        serve(health_checks.SERVICE.full_name, self._calls.handlers(health_checks.SERVICE, checks.rpcs))
        for name in (reflection.SERVICE.full_name, reflection.V1):
            serve(name, self._calls.handlers(reflection.SERVICE, described, name=name))

    def _options(self) -> list[tuple[str, int]]:
        rpcs = self._settings.grpc_rpcs + _SPARE_RPCS
        return [
            # Two processes on one port would each get some of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._settings.grpc_receive_bytes),
            # Answers are bounded by the core, to 3 MiB or one message.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            # Not below what runs at once, or a client would queue calls instead of hearing `overloaded`.
            ("grpc.max_concurrent_streams", rpcs),
            # File descriptors are bounded too; an idle connection has no call to lose.
            ("grpc.max_allowed_incoming_connections", rpcs),
            # A peer that has gone, or reads nothing at all, frees its calls after these milliseconds; a closing door
            # can't be rid of it sooner than the timeout, which therefore is no more than half of the drain time.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Clients may ping every ten seconds, between calls too; gRPC's default is five minutes.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]

    def _listen(self) -> int:
        """The port. Raises `OSError` with the reason, which gRPC only writes to stderr."""
        host, port = self._settings.grpc_host, self._settings.grpc_port
        try:
            if self._certificates is not None:
                return self._server.add_secure_port(_address(host, port), tls.credentials(self._certificates))
            return self._server.add_insecure_port(_address(host, port))
        except RuntimeError as error:
            _try_to_listen(host, port)
            raise OSError(errno.EADDRNOTAVAIL, f"gRPC can't listen on {_address(host, port)}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _try_to_listen(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(error.errno, f"gRPC can't listen on {_address(host, port)}: {error.strerror}") from error
