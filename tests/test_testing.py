"""The fixtures that users get, used as they would."""

from datetime import UTC, datetime

import grpc.aio
import httpx2
import pytest
from dependency_injector import providers

from container import Container
from core.settings import MEMORY, Settings
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from testing.plugin import Trivium

THEN = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


async def test_a_whole_trivium_is_there(trivium: Trivium) -> None:
    """What is published at REST is read at gRPC, and the fake broker gets it from the relay."""
    async with httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http:
        answer = await http.post("/api/topics/orders/messages", content=b"one", headers={"idempotency-key": "1"})
        assert answer.status_code == 201
    async with grpc.aio.insecure_channel(trivium.grpc) as channel:
        page = await MessagesStub(channel).ReadMessages(pb.ReadMessagesRequest(topic="orders"))
        assert [(one.id, one.data) for one in page.messages] == [("1", b"one")]
    (relayed,) = await trivium.broker.received(1)
    assert (relayed.topic, relayed.offset, relayed.message.id) == ("orders", 1, "1")


async def test_the_broker_can_go_away(trivium: Trivium) -> None:
    """REST goes on accepting, and the relay catches up."""
    trivium.broker.down()
    async with httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http:
        for number in range(3):
            answer = await http.post("/api/topics/orders/messages", content=b"%d" % number)
            assert answer.status_code == 201
    trivium.broker.up()
    assert [one.message.data for one in await trivium.broker.received(3)] == [b"0", b"1", b"2"]


class TestOtherAdapters:
    """Fixtures overridden as the module says."""

    @pytest.fixture
    def trivium_settings(self) -> Settings:
        """A door less."""
        return Settings(data_dir=MEMORY, rest_port=0, grpc=False, admin=False, greeting="other")

    @pytest.fixture
    def trivium_container(self, trivium_container: Container) -> Container:
        """A clock that stands still."""

        class Stopped:
            def now(self) -> datetime:
                return THEN

        trivium_container.clock.override(providers.Singleton(Stopped))
        return trivium_container

    async def test_are_plugged_in(self, trivium: Trivium) -> None:
        """The settings and the clock are the test's."""
        assert trivium.grpc == ""
        async with httpx2.AsyncClient(base_url=trivium.rest, timeout=30) as http:
            assert (await http.get("/api/data")).json()["message"] == "other"
            await http.post("/api/data", json={"message": "x"})
            assert (await http.get("/api/data")).json()["time"] == "2026-01-31T12:00:00Z"
