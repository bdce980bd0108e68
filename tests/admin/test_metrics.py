"""What a scrape of a whole Trivium on a real broker tells."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import aio_pika
import grpc.aio
import httpx2
import pytest

from container import Container
from core.errors import InvalidArgument
from core.messages import new_message
from core.settings import Settings
from core.telemetry.vocabulary import VOCABULARY
from main import Running, running
from tests.admin.scraping import LIBRARY, NAMES, TEXT, Scrape, scrape, scraped
from tests.conformance.clients import Client, Grpc, Rest, amqp_rpc
from tools.metrics import document

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def settings(amqp_url: str, amqp_prefix: str, tmp_path: Path) -> Settings:
    """All doors, on free ports, and a log on the disk."""
    return Settings(
        data_dir=str(tmp_path), rest_port=0, grpc_port=0, admin_port=0, amqp_url=amqp_url, amqp_prefix=amqp_prefix
    )


@pytest.fixture
async def up(settings: Settings) -> AsyncIterator[Running]:
    container = Container(settings=settings)
    async with running(container) as up:
        await container.publisher().ready()
        yield up


@pytest.fixture
async def clients(up: Running, settings: Settings) -> AsyncIterator[dict[str, Client]]:
    """One for each door."""
    async with (
        httpx2.AsyncClient(base_url=up.doors["rest"].address, timeout=30) as http,
        grpc.aio.insecure_channel(up.doors["grpc"].address) as channel,
        amqp_rpc(settings.amqp_url, f"{settings.amqp_prefix}.rpc") as rpc,
    ):
        yield {"rest": Rest(http), "grpc": Grpc(channel), "amqp": rpc}


async def traffic(clients: dict[str, Client], settings: Settings, up: Running) -> Scrape:
    """Something of everything; the scrape once all of it is counted."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(f"{settings.amqp_prefix}.out", "t")
        for client in clients.values():
            await client.publish("t", [new_message(b"four")])
            with pytest.raises(InvalidArgument):
                await client.publish("not a topic", [new_message(b"")])
            await client.get_data("t")
            await client.read_messages("t", after=0, limit=2)
        for door in ("rest", "grpc"):
            async with aclosing(clients[door].follow("t", 0)) as stored:
                await anext(stored)
        inbox = await channel.get_exchange(f"{settings.amqp_prefix}.in")
        await inbox.publish(aio_pika.Message(b"from amqp"), "t")
        await inbox.publish(aio_pika.Message(b"{", content_type="application/json"), "t")
        await inbox.publish(aio_pika.Message(b"unroutable"), "nobody")
        return await scraped(
            up.admin,
            lambda found: (
                found.value("trivium_dead_letters_total") == 1
                and found.value("trivium_stored_messages_total") == 5
                and found.value("trivium_relay_lag_messages") == 1
                and found.value("trivium_relay_held_topics") == 1
                and found.value("trivium_operations_total", operation="Inbox") == 3
                and found.value("trivium_followers") == 0
            ),
        )


async def test_everything_in_the_vocabulary_is_exposed_and_nothing_else(
    clients: dict[str, Client], settings: Settings, up: Running
) -> None:
    """After traffic each metric has a sample, with the labels that the vocabulary says."""
    found = await traffic(clients, settings, up)
    with_samples = {name for name, family in found.families.items() if family.samples}
    assert with_samples == NAMES | LIBRARY
    for metric in VOCABULARY:
        family = found.families[metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample
    text = await scrape(up.admin, TEXT)
    assert {re.sub("_total$", "", name) for name in text.families} == NAMES | LIBRARY


async def test_all_doors_tell_alike(clients: dict[str, Client], settings: Settings, up: Running) -> None:
    """One name for an operation, one for a code, whichever door it came through."""
    found = await traffic(clients, settings, up)
    for door in ("rest", "grpc", "amqp"):
        for operation, code, times in (
            ("Publish", "ok", 1),
            ("Publish", "invalid_argument", 1),
            ("GetData", "ok", 1),
            ("ReadMessages", "ok", 1),
        ):
            counted = found.value("trivium_operations_total", door=door, operation=operation, code=code)
            assert counted == times, (door, operation, code)
        seconds = found.value("trivium_operation_duration_seconds_count", door=door, operation="Publish")
        assert seconds == 2
    came = [found.value("trivium_messages_in_total", door=door) for door in ("rest", "grpc", "amqp")]
    assert came == [1, 1, 3]  # two of them through the inbox
    assert found.value("trivium_bytes_in_total", door="grpc") == 4
    went = [found.value("trivium_messages_out_total", door=door) for door in ("rest", "grpc", "amqp")]
    assert went == [1 + 1 + 3, 1 + 2 + 3, 1 + 2 + 4]  # the newest, a page, and what was followed or relayed
    assert found.value("trivium_operations_total", door="amqp", operation="Inbox", code="invalid_argument") == 1
    assert found.value("trivium_dead_letters_total", source="inbox", code="invalid_argument") == 1


async def test_grpc_is_told_as_go_tells_it(clients: dict[str, Client], settings: Settings, up: Running) -> None:
    """With the names and codes that dashboards of go-grpc-prometheus look for."""
    found = await traffic(clients, settings, up)
    publish = {"grpc_service": "trivium.v1.Messages", "grpc_method": "Publish", "grpc_type": "unary"}
    assert found.value("grpc_server_started_total", **publish) == 2
    assert found.value("grpc_server_handled_total", **publish, grpc_code="OK") == 1
    assert found.value("grpc_server_handled_total", **publish, grpc_code="InvalidArgument") == 1
    assert found.value("grpc_server_msg_received_total", **publish) == 2
    assert found.value("grpc_server_msg_sent_total", **publish) == 1
    follow = {"grpc_method": "Follow", "grpc_type": "server_stream"}
    found = await scraped(
        up.admin, lambda found: found.value("grpc_server_handled_total", **follow, grpc_code="Canceled") == 1
    )
    assert found.value("grpc_server_msg_sent_total", **follow) >= 2


async def test_the_broker_is_told_of(clients: dict[str, Client], settings: Settings, up: Running) -> None:
    """Connections, confirms, returns, and what waits for a queue."""
    found = await traffic(clients, settings, up)
    assert found.labels("trivium_broker_connected", "connection") == {"intake", "output", "answers"}
    assert found.value("trivium_broker_connected") == found.value("trivium_broker_connections_total") == 3
    out = {"messaging_system": "rabbitmq", "messaging_destination_name": f"{settings.amqp_prefix}.out"}
    assert found.value("messaging_client_sent_messages_total", **out, error_type="") == 4
    assert found.value("messaging_client_sent_messages_total", **out, error_type="return") >= 1
    assert found.value("messaging_client_operation_duration_seconds_count", **out) >= 1
    assert found.value("trivium_relayed_messages_total") == 4
    assert found.value("trivium_relay_failures_total", reason="unroutable") >= 1
    assert found.value("trivium_relay_lag_messages", topic="nobody") == 1
    assert found.value("trivium_relay_oldest_unrelayed_seconds") > 0
    assert found.value("trivium_relay_lag_seconds") == 0  # the topic that waits is held
    taken = {"messaging_system": "rabbitmq", "messaging_destination_name": f"{settings.amqp_prefix}.in"}
    assert found.value("messaging_client_consumed_messages_total", **taken) == 3
    assert found.value("messaging_process_duration_seconds_count", **taken) == 3


async def test_the_log_is_told_of(up: Running, clients: dict[str, Client], tmp_path: Path) -> None:
    """Heads, groups, repetitions, and where reads were served from."""
    message = new_message(b"one")
    for _ in range(3):
        await clients["grpc"].publish("t", [message])
    await clients["grpc"].publish("t", [new_message(b"two") for _ in range(4)])
    await clients["grpc"].read_messages("t", after=0, limit=10)
    found = await scrape(up.admin)
    assert found.value("trivium_log_head", topic="t") == 5
    assert found.value("trivium_topics") == 1
    disk = os.statvfs(tmp_path)
    assert 0 < found.value("trivium_store_free_bytes") <= disk.f_bfree * disk.f_frsize * 2  # others use it too
    assert found.value("trivium_duplicate_messages_total") == 2
    assert found.value("trivium_commits_total") >= 4
    assert found.value("trivium_commit_messages_sum") == 5
    assert found.value("trivium_log_reads_total", **{"from": "tail"}) >= 1
    assert found.value("trivium_bound_limit", bound="topics") == 250_000
    for bound in found.labels("trivium_bound_limit", "bound"):
        assert found.value("trivium_bound_used", bound=bound) <= found.value("trivium_bound_limit", bound=bound)
    assert found.value("trivium_ready") == 1
    assert found.labels("trivium_check_state", "check") == {"store", "relay", "inbox", "broker"}
    assert found.value("trivium_check_state") == 0


def test_the_document_is_up_to_date() -> None:
    """docs/metrics.md is what the vocabulary says: run `python -m tools.metrics`."""
    assert DOCS.read_text() == document()
