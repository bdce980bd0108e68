"""Reading over HTTP: the newest message, single messages, pages, topics."""

import asyncio

import httpx2

from core.messages import new_message
from core.service import LocalService
from tests.rest.wire import connected, request, until
from transports.rest.door import RestDoor


async def test_greets_while_there_is_nothing(http: httpx2.AsyncClient) -> None:
    """An empty topic answers with the greeting and offset 0."""
    answer = await http.get("/api/data")
    assert answer.json() == {"message": "Hello from Trivium", "topic": "data", "offset": 0}
    assert answer.headers["content-type"] == "application/json"


async def test_reads_the_newest_message(http: httpx2.AsyncClient) -> None:
    """What is posted as a text is what is read next, with its identity."""
    posted = await http.post("/api/data", json={"message": "grüß dich"}, headers={"idempotency-key": "k"})
    assert (posted.status_code, posted.json()["id"]) == (201, "k")
    answer = (await http.get("/api/data")).json()
    assert (answer["message"], answer["offset"], answer["id"]) == ("grüß dich", 1, "k")
    assert answer["source"] == "urn:trivium"
    stored = (await http.get(posted.headers["location"])).json()
    assert (stored["data"], stored["datacontenttype"]) == ("grüß dich", "text/plain; charset=utf-8")


async def test_reads_the_newest_of_another_topic(http: httpx2.AsyncClient) -> None:
    """`?topic=` names another topic; data that is no text comes in base64."""
    await http.post("/api/topics/raw/messages", content=b"\xff\x00")
    answer = (await http.get("/api/data", params={"topic": "raw"})).json()
    assert (answer["message"], answer["encoding"], answer["topic"]) == ("/wA=", "base64", "raw")


async def test_tells_data_by_its_type(http: httpx2.AsyncClient) -> None:
    """JSON comes as JSON, text as a string, the rest in base64."""
    for kind, body in (("application/json", b"[1]"), ("text/plain", b"[1]"), ("image/png", b"[1]")):
        await http.post("/api/topics/t/messages", content=body, headers={"content-type": kind})
    page = (await http.get("/api/topics/t/messages")).json()
    assert [one.get("data", one.get("data_base64")) for one in page["messages"]] == [[1], "[1]", "WzFd"]
    assert [one["offset"] for one in page["messages"]] == ["1", "2", "3"]


async def test_reads_pages(http: httpx2.AsyncClient, service: LocalService) -> None:
    """`next` continues where a page ended, and stays where nothing follows."""
    await service.publish("t", [new_message(b"%d" % number) for number in range(5)])
    cursor, sizes = 0, []
    for _ in range(4):
        page = (await http.get("/api/topics/t/messages", params={"after": cursor, "limit": 2})).json()
        sizes.append(len(page["messages"]))
        cursor = page["next"]
    assert (sizes, cursor) == ([2, 2, 1, 0], 5)


async def test_finds_an_empty_topic_empty(http: httpx2.AsyncClient) -> None:
    """A topic without messages is not missing."""
    assert (await http.get("/api/topics/none/messages")).json() == {"messages": [], "next": 0}


async def test_finds_no_message_where_none_is(http: httpx2.AsyncClient) -> None:
    """A single message that does not exist is `not_found`."""
    answer = await http.get("/api/topics/none/messages/1")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_waits_for_a_message(http: httpx2.AsyncClient, service: LocalService) -> None:
    """`wait` holds an empty page open until a message comes."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(http.get("/api/topics/t/messages", params={"wait": "30"}))
        await _streams(service, 1)
        await service.publish("t", [new_message(b"x")])
    assert waiting.result().json()["next"] == 1


async def test_waits_no_longer_than_asked(http: httpx2.AsyncClient) -> None:
    """A wait that brings nothing ends with an empty page."""
    answer = await http.get("/api/topics/t/messages", params={"wait": "0.01"})
    assert answer.json() == {"messages": [], "next": 0}


async def test_waits_for_nobody_who_left(door: RestDoor, service: LocalService) -> None:
    """A client that leaves while it waits gives its place back at once."""
    async with connected(door) as wire:
        await wire.send(request("GET", "/api/topics/t/messages?wait=60"))
        await _streams(service, 1)
    await _streams(service, 0)


async def test_lists_topics(http: httpx2.AsyncClient, service: LocalService) -> None:
    """Topics come by name, page by page, with their heads."""
    for topic in ("b", "a", "c"):
        await service.publish(topic, [new_message(b"x")])
    first = (await http.get("/api/topics", params={"limit": 2})).json()
    assert first == {"topics": [{"topic": "a", "head": 1}, {"topic": "b", "head": 1}], "next": "b"}
    second = (await http.get("/api/topics", params={"after": first["next"]})).json()
    assert second == {"topics": [{"topic": "c", "head": 1}], "next": None}


async def test_cuts_a_page_to_the_bound_of_an_answer(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A page of large messages ends early, and `next` continues behind what it holds."""
    for _ in range(5):
        await service.publish("t", [new_message(b"x" * 1_000_000)])
    page = await http.get("/api/topics/t/messages")
    assert len(page.content) <= 3 * 1024 * 1024
    assert page.json()["next"] == len(page.json()["messages"]) == 2
    rest = (await http.get("/api/topics/t/messages", params={"after": 2})).json()
    assert [one["offset"] for one in rest["messages"]] == ["3", "4"]


async def test_decodes_a_path_once(http: httpx2.AsyncClient, service: LocalService) -> None:
    """A percent-encoded topic is the topic; one that is encoded twice is no topic."""
    await service.publish("a.b", [new_message(b"x")])
    assert (await http.get("/api/topics/a%2Eb/messages/1")).status_code == 200
    twice = await http.get("/api/topics/a%252Eb/messages/1")
    assert (twice.status_code, twice.json()["field"]) == (400, "topic")


async def test_answers_head_as_get(http: httpx2.AsyncClient, service: LocalService) -> None:
    """HEAD has the status and the headers of GET, and no body."""
    await service.publish("t", [new_message(b"x")])
    for path in ("/api/data", "/api/topics", "/api/topics/t/messages", "/api/topics/t/messages/1", "/docs", "/livez"):
        head, get = await http.head(path), await http.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == str(len(get.content))
    stream = await http.head("/api/topics/t/stream")
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
    assert service.streams == 0


async def _streams(service: LocalService, count: int) -> None:
    await until(lambda: service.streams == count)
