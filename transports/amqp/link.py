"""One connection to RabbitMQ, kept up for as long as the service runs."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.connection import Parameters
from pika.exceptions import AMQPError

from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.reasons import explain
from transports.amqp.topology import TopologyError
from transports.amqp.wire import Connection

_FIRST_PAUSE_SECONDS = 0.1
#: A connection that held this long was a good one: the next attempt comes at once.
_PROVEN_SECONDS = 5.0

#: Runs on a channel of its own, and calls the function once it does its work.
Session: TypeAlias = Callable[[Channel, Callable[[], None]], Awaitable[None]]


class Backoff:
    """Pauses between attempts, doubling up to `most` seconds, each a random part of that."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def seconds(self) -> float:
        pause: float = min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 20), self._most)
        self._failures += 1
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients


class Link:
    """One connection and the parts that work on channels of it."""

    def __init__(
        self,
        name: str,
        parameters: Callable[[], Awaitable[Parameters]],
        retry_seconds: float,
        prepare: Callable[[Connection], Awaitable[None]],
        report: Callable[[str, str | None], None],
    ) -> None:
        """`parameters` is asked before each attempt to connect, `prepare` makes a fresh connection usable, and
        `report` takes what is wrong with a part, None if nothing is.
        """
        self.flowing = asyncio.Event()  # connected, and not blocked by an alarm
        self.name = name
        self._parameters = parameters
        self._retry_seconds = retry_seconds
        self._prepare = prepare
        self._report = report
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._connections = 0

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.BROKER_CONNECTED.of(int(self._connected.is_set()), self.name)
        blocked = self._connection is not None and self._connection.blocked is not None
        yield vocabulary.BROKER_BLOCKED.of(int(blocked), self.name)
        yield vocabulary.BROKER_CONNECTIONS.of(self._connections, self.name)

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        backoff = Backoff(self._retry_seconds)
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                reason = await self._connect()
            except TopologyError as error:
                reason = str(error)
            except (AMQPError, AMQPConnectorException, ChannelLost, OSError) as error:
                reason = f"no connection: {explain(error)}"
            if loop.time() - begun > _PROVEN_SECONDS:
                backoff.reset()
            self._report(self.name, reason)
            await asyncio.sleep(backoff.seconds())

    async def serve(self, part: str, session: Session) -> None:
        """Run `session` on a channel of its own, on a fresh one whenever that is lost, until it returns.

        A channel that the broker closed for a reason of its own (a queue was deleted, a right is missing) costs
        the others nothing: the topology is declared again, and after a pause the session begins anew.
        """
        backoff = Backoff(self._retry_seconds)
        again = False
        while True:
            await self._connected.wait()
            connection = self._connection
            if connection is None:
                continue
            try:
                if again:
                    await self._prepare(connection)
                await self._converse(connection, part, session, backoff)
                return
            except (ChannelLost, TopologyError) as error:
                again = not connection.lost.done()
                if again:
                    self._report(part, f"{part}: {error}")
            await asyncio.sleep(backoff.seconds())

    async def _connect(self) -> str:
        connection = await Connection.open(await self._parameters(), self._flow)
        try:
            await self._prepare(connection)
            self._connection = connection
            self._connections += 1
            self._connected.set()
            self._flow()
            return f"connection lost: {explain(await asyncio.shield(connection.lost))}"
        finally:
            self._connection = None
            self._connected.clear()
            self.flowing.clear()
            await connection.close()

    async def _converse(self, connection: Connection, part: str, session: Session, backoff: Backoff) -> None:
        channel = await Channel.open(connection)

        def began() -> None:
            backoff.reset()
            self._report(part, None)

        work: asyncio.Future[None] = asyncio.ensure_future(session(channel, began))
        ends: set[asyncio.Future[Any]] = {work, channel.lost}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = channel.lost.done()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            await channel.close()
        if not lost:
            work.result()
        elif not work.cancelled() and (failure := work.exception()) is not None:
            raise channel.lost.result() from failure  # the one follows from the other
        else:
            raise channel.lost.result()

    def _flow(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if connection.blocked is None:
            self.flowing.set()
            self._report(self.name, None)
        else:
            self.flowing.clear()
            self._report(self.name, f"RabbitMQ takes no messages: {connection.blocked}")
