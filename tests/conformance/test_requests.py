"""Every request has an id, and with it a way to its lines in the log, at each door."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import aio_pika
import grpc.aio
import httpx2
import msgspec
import pytest
from structlog.testing import capture_logs

from core.settings import Settings
from main import Running
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub

GIVEN = "order-17.attempt-2"


async def rest(http: httpx2.AsyncClient, path: str, **headers: str) -> tuple[str, Any]:
    """The id that came back, and the document."""
    answer = await http.get(path, headers=headers)
    return answer.headers["x-request-id"], answer.json()


@pytest.fixture
async def http(trivium: Running) -> Any:
    async with httpx2.AsyncClient(base_url=trivium.doors["rest"].address, timeout=30) as http:
        yield http


async def test_rest(http: httpx2.AsyncClient) -> None:
    """A sane id is taken and answered; problem documents name the id, but where the head was too broken to read."""
    assert (await rest(http, "/api/data", **{"x-request-id": GIVEN}))[0] == GIVEN
    for path in ("/api/nothing", "/api/data?topic=!", "/api/topics/t/messages/1"):
        given, document = await rest(http, path, **{"x-request-id": GIVEN})
        assert given == document["request_id"] == GIVEN
        made, document = await rest(http, path)
        assert made == document["request_id"] != GIVEN
    refused = await http.post("/api/data", headers={"x-request-id": GIVEN}, content=b"x" * 9_000_000)
    assert (refused.status_code, refused.json()["request_id"]) == (413, GIVEN)
    first, second = (await rest(http, "/api/data"))[0], (await rest(http, "/api/data", **{"x-request-id": "a b"}))[0]
    assert len({first, second, "a b"}) == 3
    async with http.stream("GET", "/api/topics/t/stream", headers={"x-request-id": GIVEN}) as stream:
        assert stream.headers["x-request-id"] == GIVEN


async def test_grpc(trivium: Running) -> None:
    """In the trailing metadata, of calls that bring one, and of those that fail."""
    async with grpc.aio.insecure_channel(trivium.doors["grpc"].address) as channel:
        stub: Any = MessagesStub(channel)
        for topic in ("t", "!"):
            for metadata, expected in (((("x-request-id", GIVEN),), GIVEN), ((), None)):
                call = stub.GetData(pb.GetDataRequest(topic=topic), metadata=metadata)
                code = await call.code()
                assert code is (grpc.StatusCode.OK if topic == "t" else grpc.StatusCode.INVALID_ARGUMENT)
                found = dict(await call.trailing_metadata()).get("x-request-id")
                assert found == expected or (expected is None and bool(found) == (topic == "!"))


async def test_amqp(trivium: Running, settings: Settings) -> None:
    """In the problem document."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        for headers in ({"x-request-id": GIVEN}, {"x-request-id": 7}, {}):
            message = aio_pika.Message(b"{}", type="Nothing", reply_to=replies.name, headers=dict(headers))
            await channel.default_exchange.publish(message, f"{settings.amqp_prefix}.rpc")
            async with replies.iterator(no_ack=True, timeout=60) as answers:
                document = json.loads((await anext(aiter(answers))).body)
            assert document["code"] == "not_found"
            assert document["request_id"]
            assert (document["request_id"] == GIVEN) == (headers.get("x-request-id") == GIVEN)


class TestAccessLog:
    """Of every request, where that is asked for."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, access_log="full")

    async def test_a_line_per_request(self, trivium: Running, settings: Settings, http: httpx2.AsyncClient) -> None:
        """The same at each door: what was asked, what became of it, how long it took."""
        topic = f"t-{uuid4().hex[:8]}"
        with capture_logs() as lines:
            await http.get("/api/data", params={"topic": topic})
            await http.get("/api/data", params={"topic": "!"})
            await http.get("/nothing")
            async with grpc.aio.insecure_channel(trivium.doors["grpc"].address) as channel:
                await MessagesStub(channel).GetData(pb.GetDataRequest(topic=topic))
            async with await aio_pika.connect(settings.amqp_url) as connection:
                exchange = await (await connection.channel()).get_exchange(f"{settings.amqp_prefix}.in")
                await exchange.publish(aio_pika.Message(b"x"), topic)
            async with asyncio.timeout(30):
                while not any(line.get("event.action") == "Inbox" for line in lines):  # noqa: ASYNC110 - a list
                    await asyncio.sleep(0.01)
        requests = [line for line in lines if line["event"] == "request"]
        assert [_told(line) for line in requests] == [
            ("rest", "GetData", "success", None),
            ("rest", "GetData", "failure", "invalid_argument"),
            ("rest", "Unknown", "failure", "not_found"),
            ("grpc", "GetData", "success", None),
            ("amqp", "Inbox", "success", None),
        ]
        assert all(line["event.duration"] > 0 for line in requests)
        found = requests[2]
        assert (found["http.request.method"], found["url.path"]) == ("GET", "/nothing")
        assert (found["http.response.status_code"], found["client.address"]) == (404, "127.0.0.1")


async def test_without_an_access_log_nothing_is_logged(trivium: Running, http: httpx2.AsyncClient) -> None:
    """Off is the default."""
    with capture_logs() as lines:
        await http.get("/api/data")
        await http.get("/nothing")
    assert lines == []


def _told(line: Mapping[str, Any]) -> tuple[str, str, str, str | None]:
    return line["network.protocol"], line["event.action"], line["event.outcome"], line.get("error.code")
