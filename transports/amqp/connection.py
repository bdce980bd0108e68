"""The broker as the parts of the door see it: connected for as long as it is there."""

import asyncio
import logging
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pika
import structlog
from pika.credentials import ExternalCredentials

from core.health import Health, State
from core.settings import InvalidSettings, Settings
from core.telemetry.figures import Figure
from transports.amqp import topology
from transports.amqp.link import Link, Session
from transports.amqp.topology import Topology
from transports.amqp.wire import Connection

if TYPE_CHECKING:
    from transports.amqp.tls import BrokerTls

log = structlog.get_logger("trivium.amqp")

#: pika notices a silent broker after up to three times this.
_HEARTBEAT_SECONDS = 10
_SOCKET_SECONDS = 5.0
_HANDSHAKE_SECONDS = 10.0
#: An alarm lasts until somebody acts. A fresh connection now and then makes sure that it still holds.
_BLOCKED_SECONDS = 300.0
#: Different reasons that are logged while the broker is away; there are one or two.
_REASONS = 20


class Broker:
    """Connections by what flows on them, so that trouble with the one does not reach the others.

    `intake` has what comes in. It must flow while an alarm blocks what goes out: on a connection that publishes too,
    RabbitMQ would stop reading acknowledgements, the queues would not shrink, and an alarm they caused would not end.
    `output` has what the relay and the dead letters send, and `answers` those to RPCs, since RabbitMQ 3.10 ends the
    connection that answers to a malformed direct reply-to.

    A broker that is away, refuses us or holds other queues than ours is no failure of the service: the health check
    `broker` tells it, once per change.
    """

    name = "amqp"

    def __init__(self, settings: Settings, health: Health) -> None:
        self._parameters = _parameters(settings)
        self._tls = _tls(settings)
        self.topology = Topology(settings.amqp_prefix)
        self.confirm_seconds = settings.amqp_confirm_seconds
        self._address = _without_password(settings.amqp_url)
        self._declare = settings.amqp_declare
        self._declaring = asyncio.Lock()
        self._quiet = settings.log_level != "debug"
        self._health = health
        self._problems: dict[str, str | None] = {}
        self._told: set[str] = set()
        self.intake, self.output, self.answers = self._links = [
            Link(name, self._current, settings.amqp_retry_seconds, self._prepare, self._report)
            for name in ("intake", "output", "answers")
        ]
        self._pending = {link.name for link in self._links}  # neither up nor down so far
        self._parts: list[tuple[Link, str, Session]] = []
        self._group: asyncio.TaskGroup | None = None

    @property
    def address(self) -> str:
        return self._address

    def figures(self) -> Iterator[Figure]:
        for link in self._links:
            yield from link.figures()

    def attach(self, link: Link, part: str, session: Session) -> None:
        """Serve `session` on one of the connections, from entering until leaving."""
        if self._group is None:
            self._parts.append((link, part, session))
        else:
            self._group.create_task(link.serve(part, session), name=f"amqp {part}")

    async def __aenter__(self) -> Self:
        """Return at once, whether or not the broker is there."""
        if self._quiet:
            # pika reports each failed attempt at several levels; `_report` tells it once
            logging.getLogger("pika").setLevel(logging.CRITICAL)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="amqp connections")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def wait(self) -> None:
        """Never returns; raises what ended the supervision, which is a defect."""
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for link in self._links:
                group.create_task(link.run(), name=f"amqp {link.name}")
            for link, part, session in self._parts:
                group.create_task(link.serve(part, session), name=f"amqp {part}")

    async def _current(self) -> pika.URLParameters:
        if self._tls is not None:
            context = await asyncio.to_thread(self._tls.context)
            self._parameters.ssl_options = pika.SSLOptions(context, self._parameters.host)
        return self._parameters

    async def _prepare(self, connection: Connection) -> None:
        async with self._declaring:
            await (topology.declare if self._declare else topology.check)(connection, self.topology)

    def _report(self, part: str, problem: str | None) -> None:
        self._pending.discard(part)
        self._problems[part] = problem
        reasons = list(dict.fromkeys(text for text in self._problems.values() if text))
        if reasons:
            self._tell(reasons)
        elif not self._pending:
            self._told.clear()
            if "broker" not in self._health.checks:  # later changes are told by the check
                log.info("broker is connected", address=self._address)
            self._health.report("broker", State.OK, f"connected to {self._address}")

    def _tell(self, reasons: list[str]) -> None:
        """Health logs the first reason, when the state changes; each further one is logged here, once."""
        for reason in reasons:
            if reason in self._told or len(self._told) == _REASONS:
                continue
            if self._told:
                log.warning("another reason why RabbitMQ can't be used", reason=reason, address=self._address)
            self._told.add(reason)
        self._health.report("broker", State.DEGRADED, f"{self._address}: {'; '.join(reasons)}")


def _tls(settings: Settings) -> "BrokerTls | None":
    """None where none of it is used. Raises `InvalidSettings`."""
    if not any((settings.amqp_url.startswith("amqps:"), settings.amqp_ca, settings.amqp_cert, settings.amqp_key)):
        return None
    from transports.amqp.tls import BrokerTls  # what it takes is installed only where TLS is used

    return BrokerTls(settings)


def _parameters(settings: Settings) -> pika.URLParameters:
    """Raises `InvalidSettings`, without the password."""
    try:
        parts = urlsplit(settings.amqp_url)
        if parts.scheme not in ("amqp", "amqps") or "@" in parts.path:
            raise ValueError
        if settings.amqp_cert and parts.password is None:  # the certificate tells the user
            parameters = pika.URLParameters(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
            parameters.credentials = ExternalCredentials()
        else:
            parameters = pika.URLParameters(settings.amqp_url)
        if parameters.heartbeat is None:
            parameters.heartbeat = _HEARTBEAT_SECONDS
        if parameters.blocked_connection_timeout is None:
            parameters.blocked_connection_timeout = _BLOCKED_SECONDS
        parameters.socket_timeout = _SOCKET_SECONDS
        parameters.stack_timeout = _HANDSHAKE_SECONDS
    except (ValueError, TypeError, AttributeError):
        # their texts hold pieces of the URL, and so perhaps of the password
        problem = "amqp_url: must be a URL such as amqp://user:password@host:5672/vhost, percent-encoded"
        raise InvalidSettings([problem]) from None
    return parameters


def _without_password(url: str) -> str:
    """The URL for people: no password, and no query, which may name keys."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}{parts.path}"
