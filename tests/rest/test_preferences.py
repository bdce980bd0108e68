"""What a client may wish for in headers."""

import httpx2
import pytest

from core.messages import new_message
from core.service import LocalService


@pytest.mark.parametrize("prefer", ["wait=0", "respond-async, wait=0", "WAIT = 0 ; x=y", "handling=lenient;x,wait=0"])
async def test_a_client_says_how_long_it_waits(http: httpx2.AsyncClient, prefer: str) -> None:
    """The preference `wait` of RFC 7240 ends a call that takes longer."""
    answer = await http.get("/api/topics/t/messages?wait=30", headers={"prefer": prefer})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("prefer", ["wait=soon", "await=0", "wait=-1", "waiting, x=wait", "wait=0x"])
async def test_a_preference_that_can_not_be_read_is_none(http: httpx2.AsyncClient, prefer: str) -> None:
    """As the RFC says."""
    answer = await http.get("/api/topics/t/messages?wait=0.01", headers={"prefer": prefer})
    assert answer.status_code == 200


@pytest.mark.parametrize("accept", ["application/cloudevents+json", "text/html, application/cloudevents+json;q=0.5"])
async def test_the_newest_message_comes_whole_to_who_accepts_it(
    http: httpx2.AsyncClient, service: LocalService, accept: str
) -> None:
    """As the event that its own path answers with; the greeting is no event."""
    assert (await http.get("/api/data?topic=t", headers={"accept": accept})).json()["offset"] == 0
    await service.publish("t", [new_message(b"x", subject="s", attributes={"region": "eu"})])
    answer = await http.get("/api/data?topic=t", headers={"accept": accept})
    assert answer.headers["content-type"] == "application/cloudevents+json"
    assert answer.content == (await http.get("/api/topics/t/messages/1")).content
    assert "subject" not in (await http.get("/api/data?topic=t", headers={"accept": "*/*"})).json()
