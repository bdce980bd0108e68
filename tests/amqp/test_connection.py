"""The broker's side of the connection: topology, rights, and what is told of trouble."""

import asyncio
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aio_pika.abc import AbstractChannel

from core.health import Health, State
from core.settings import InvalidSettings, Settings
from tests.amqp.conftest import until, until_state
from tools.rabbitmq import Node
from transports.amqp import topology
from transports.amqp.channel import Channel
from transports.amqp.connection import Broker
from transports.amqp.link import Backoff
from transports.amqp.topology import Topology


async def test_the_topology_is_declared(broker: Broker, client: AbstractChannel, names: Topology) -> None:
    """Names, kinds and arguments of the contract: declaring the same again is no clash."""
    await client.declare_exchange(names.inbox, "topic", durable=True)
    await client.declare_exchange(names.out, "topic", durable=True)
    await client.declare_exchange(names.dead, "fanout", durable=True)
    quorum: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 2147483647}
    inbox: dict[str, Any] = {"x-single-active-consumer": True, "x-overflow": "reject-publish"}
    await client.declare_queue(names.inbox, durable=True, arguments=quorum | inbox)
    await client.declare_queue(names.dead, durable=True, arguments=quorum)
    await client.declare_queue(names.rpc, durable=True, arguments=quorum)
    assert (names.inbox, names.out, names.dead, names.rpc) == tuple(
        f"{names.prefix}.{name}" for name in ("in", "out", "dead", "rpc")
    )


@pytest.mark.parametrize("user", ["trivium:secret@", "trivium@", ""])
def test_the_address_has_no_password(settings: Settings, health: Health, user: str) -> None:
    """Nor the query, which may name keys."""
    url = f"amqp://{user}host:1234/v?heartbeat=5"
    if user == "trivium@":
        with pytest.raises(InvalidSettings):
            Broker(msgspec.structs.replace(settings, amqp_url=url), health)
        return
    broker = Broker(msgspec.structs.replace(settings, amqp_url=url), health)
    assert broker.address == f"amqp://{'trivium@' if user else ''}host:1234/v"


@pytest.mark.parametrize(
    "url", ["", "host", "http://host/", "amqp://u:pa/ss@host", "amqp://u:p#a@host", "amqp://h/?no=1", "amqp://h:99999"]
)
def test_what_is_no_url(settings: Settings, health: Health, url: str) -> None:
    """It is a fault of the settings, and told without a piece of it: that could be the password's."""
    with pytest.raises(InvalidSettings) as caught:
        Broker(msgspec.structs.replace(settings, amqp_url=url), health)
    [problem] = caught.value.problems
    assert problem.startswith("amqp_url: must be a URL")
    assert "pa" not in problem.replace("password", "")


def test_pauses_grow_up_to_the_longest() -> None:
    """Jittered, never above the bound, and short again after a reset."""
    backoff = Backoff(5.0)
    pauses = [backoff.seconds() for _ in range(30)]
    assert 0.05 <= pauses[0] <= 0.1
    assert all(2.5 <= pause <= 5.0 for pause in pauses[6:])
    backoff.reset()
    assert backoff.seconds() <= 0.1


async def test_entering_does_not_wait_for_a_broker(
    settings: Settings, health: Health, unused_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens: the check tells it, and the password is nowhere."""
    settings = msgspec.structs.replace(settings, amqp_url=unused_url.replace("guest@", "sesame@"))
    async with asyncio.timeout(5), Broker(settings, health) as broker:
        assert health.ready
        detail = await until_state(health, "broker", State.DEGRADED, "refused")
        assert health.ready
        assert broker.address in detail
        assert "sesame" not in detail + caplog.text


async def test_leaving_does_not_wait_for_a_broker(settings: Settings, health: Health, unused_url: str) -> None:
    """Also in the middle of an attempt."""
    settings = msgspec.structs.replace(settings, amqp_url=unused_url)
    async with asyncio.timeout(5), Broker(settings, health):
        pass


@pytest.fixture
def unused_url() -> Iterator[str]:
    """A port that is taken, on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}/"


async def test_a_queue_with_other_arguments_is_a_clash(
    settings: Settings, health: Health, client: AbstractChannel, names: Topology
) -> None:
    """The detail names the queue and the argument; once the queue is gone, the door works."""
    arguments = {**names.queues[0].arguments, "x-delivery-limit": 20}
    await client.declare_queue(names.inbox, durable=True, arguments=arguments)
    async with Broker(settings, health):
        detail = await until_state(health, "broker", State.DEGRADED, "can't be declared")
        assert f"queue {names.inbox!r}" in detail
        assert "x-delivery-limit" in detail
        assert health.ready
        await client.queue_delete(names.inbox)
        await until_state(health, "broker", State.OK)


async def test_an_exchange_of_another_kind_is_a_clash(
    settings: Settings, health: Health, client: AbstractChannel, names: Topology
) -> None:
    """The detail names the exchange and `type`."""
    await client.declare_exchange(names.out, "direct", durable=True)
    async with Broker(settings, health):
        detail = await until_state(health, "broker", State.DEGRADED, "can't be declared")
        assert f"exchange {names.out!r}" in detail
        assert "'type'" in detail


async def test_without_declaring_what_is_missing_is_told(
    settings: Settings, health: Health, client: AbstractChannel, names: Topology
) -> None:
    """`amqp_declare` off only checks; once somebody has made everything, the door works."""
    settings = msgspec.structs.replace(settings, amqp_declare=False)
    async with Broker(settings, health):
        await until_state(health, "broker", State.DEGRADED, f"exchange {names.inbox!r} was not found")
        for exchange in names.exchanges:
            await client.declare_exchange(exchange.name, exchange.kind, durable=True)
        await until_state(health, "broker", State.DEGRADED, f"queue {names.inbox!r} was not found")
        for queue in names.queues:
            await client.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
        await until_state(health, "broker", State.OK)


async def test_trouble_is_logged_once_per_reason(
    settings: Settings, health: Health, client: AbstractChannel, names: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried."""
    logs = Mock()
    monkeypatch.setattr("core.health.log", logs)
    monkeypatch.setattr("transports.amqp.connection.log", logs)
    await client.declare_exchange(names.out, "direct", durable=True)
    tried = 0
    original = topology.declare

    async def counting(*arguments: object) -> None:
        nonlocal tried
        tried += 1
        await original(*arguments)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(topology, "declare", counting)
    async with Broker(settings, health):
        await until(lambda: tried > 6)
    logs.warning.assert_called_once()
    assert "can't be declared" in logs.warning.call_args.kwargs["detail"]


class TestRights:
    """Users and virtual hosts, which rabbitmqctl makes on the node."""

    @pytest.fixture
    def broker_url(self, node: Node) -> str:
        return node.url

    @pytest.fixture
    def user(self, node: Node) -> Iterator[Callable[[str, str], str]]:
        """Makes a user with a right to configure and the rest; its URL."""
        name = f"u{uuid.uuid4().hex[:8]}"

        def made(configure: str, rest: str) -> str:
            node.ctl("add_user", name, "secret")
            node.ctl("set_permissions", name, configure, rest, rest)
            return node.url.replace("guest:guest", f"{name}:secret")

        yield made
        node.ctl("delete_user", name)

    async def test_a_user_without_rights_is_told(
        self, settings: Settings, health: Health, names: Topology, user: Callable[[str, str], str]
    ) -> None:
        """403 names the exchange and the way out."""
        settings = msgspec.structs.replace(settings, amqp_url=await asyncio.to_thread(user, "^$", ".*"))
        async with Broker(settings, health):
            detail = await until_state(health, "broker", State.DEGRADED, "ACCESS_REFUSED")
            assert f"exchange {names.inbox!r} can't be declared" in detail
            assert "set amqp_declare to false" in detail
            assert "secret" not in detail

    async def test_a_user_without_the_right_to_configure_only_checks(
        self, broker: Broker, settings: Settings, names: Topology, user: Callable[[str, str], str]
    ) -> None:
        """What another made is enough."""
        url = await asyncio.to_thread(user, "^$", ".*")
        health = Health()
        async with Broker(msgspec.structs.replace(settings, amqp_url=url, amqp_declare=False), health):
            await until_state(health, "broker", State.OK)

    async def test_a_refused_login_is_told(self, settings: Settings, health: Health, node: Node) -> None:
        """Without the password."""
        settings = msgspec.structs.replace(settings, amqp_url=node.url.replace("guest:guest", "guest:sesame"))
        async with Broker(settings, health):
            detail = await until_state(health, "broker", State.DEGRADED, "ACCESS_REFUSED")
            assert "sesame" not in detail

    async def test_a_missing_virtual_host_is_told(self, settings: Settings, health: Health, node: Node) -> None:
        """By its name."""
        async with Broker(msgspec.structs.replace(settings, amqp_url=f"{node.url}nowhere"), health):
            await until_state(health, "broker", State.DEGRADED, "vhost nowhere not found")


async def test_a_part_that_loses_its_channel_costs_the_others_nothing(broker: Broker, health: Health) -> None:
    """A fresh channel on the same connection, again and again; meanwhile the check tells why."""
    connections: list[object] = []
    steady = asyncio.Event()

    async def clumsy(channel: Channel, began: Callable[[], None]) -> None:
        connections.append(channel.connection)
        if len(connections) < 4:
            await channel.call("queue_declare", queue="no such queue", passive=True)
        began()
        await asyncio.Event().wait()

    async def calm(channel: Channel, began: Callable[[], None]) -> None:
        began()
        steady.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(broker.intake.serve(name, part)) for name, part in (("a", calm), ("b", clumsy))]
        await until_state(health, "broker", State.DEGRADED, "b: 404 NOT_FOUND")
        await until_state(health, "broker", State.OK)
        assert len(connections) == 4
        assert len(set(connections)) == 1
        for part in parts:
            part.cancel()


async def test_a_defect_in_a_part_ends_the_part(broker: Broker) -> None:
    """It is no trouble of the broker's, and not tried again."""

    async def broken(channel: Channel, began: Callable[[], None]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broker.intake.serve("broken", broken)
