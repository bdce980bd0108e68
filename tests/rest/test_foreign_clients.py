"""Clients that no one here wrote: the CloudEvents SDK, and an SSE library."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
import requests
import sseclient
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import http as binding
from cloudevents.core.v1.event import CloudEvent

from core.messages import new_message
from core.service import LocalService
from transports.rest.door import RestDoor

MESSAGES = "/api/topics/orders/messages"
ATTRIBUTES = {
    "id": "Ä 1%",
    "source": "urn:shop",
    "type": "order.placed",
    "subject": 'Straße "7" 😀',
    "time": datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
    "partitionkey": "customer 7",
    "shop": "50% off",
}
DATA = [
    ("application/json", {"order": 17, "note": "ü"}),
    ("text/plain", "grüß dich"),
    ("application/octet-stream", b"\x00\xff"),
]


@pytest.mark.parametrize("encode", [binding.to_binary_event, binding.to_structured_event])
@pytest.mark.parametrize(("media", "data"), DATA)
async def test_sdk_events_come_back_as_they_were(
    http: httpx2.AsyncClient, encode: Callable[[BaseCloudEvent], binding.HTTPMessage], media: str, data: Any
) -> None:
    """What the CloudEvents SDK sends, binary or structured, it reads back the same."""
    sent = CloudEvent({**ATTRIBUTES, "datacontenttype": media, "specversion": "1.0"}, data)
    message = encode(sent)
    answer = await http.post(MESSAGES, content=message.body, headers=message.headers)
    assert answer.status_code == 201, answer.text
    stored = await http.get(answer.headers["location"])
    event = binding.from_http_event(binding.HTTPMessage(dict(stored.headers), stored.content))
    own = {"topic": "orders", "offset": "1"}
    assert event.get_attributes() == {**ATTRIBUTES, "datacontenttype": media, "specversion": "1.0", **own}
    assert event.get_data() == data


async def test_sdk_repeats_are_repeats(http: httpx2.AsyncClient) -> None:
    """An event is the same message in binary and in structured mode."""
    event = CloudEvent({**ATTRIBUTES, "datacontenttype": "text/plain", "specversion": "1.0"}, "hello")
    messages = binding.to_binary_event(event), binding.to_structured_event(event)
    answers = [await http.post(MESSAGES, content=one.body, headers=one.headers) for one in messages]
    assert [answer.status_code for answer in answers] == [201, 200]


def _events(url: str, headers: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    with closing(requests.get(url, headers=headers, stream=True, timeout=30)) as answer:
        for event in sseclient.SSEClient(answer.iter_content(None)).events():
            yield event.id or "", event.event, event.data


async def test_sse_library_follows_and_resumes(door: RestDoor, service: LocalService) -> None:
    """sseclient-py sees every event once in order, also after a reconnect with the id it saw last."""
    await service.publish("t", [new_message(b'{"n":\n%d}' % n, content_type="application/json") for n in range(5)])
    url = f"{door.address}/api/topics/t/stream"

    def follow(count: int, headers: dict[str, str], query: str = "") -> list[tuple[str, str, str]]:
        with closing(_events(url + query, headers)) as events:  # type: ignore[type-var]  # a generator has close
            return [next(events) for _ in range(count)]

    first = await asyncio.to_thread(follow, 2, {}, "?after=0")
    rest = await asyncio.to_thread(follow, 3, {"Last-Event-ID": first[-1][0]})
    assert [(id, kind) for id, kind, _ in first + rest] == [(str(n), "message") for n in range(1, 6)]
    assert '"data":{"n":\n4}' in rest[-1][2]
