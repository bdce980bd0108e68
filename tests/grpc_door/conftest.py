"""Fixtures of the gRPC door: one that is open, and clients of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from core.gate import OpenGate
from core.health import Health
from core.service import LocalService
from core.settings import Settings
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.grpc_door.clients import connect
from transports.grpc.door import GrpcDoor


@pytest.fixture
async def door(service: LocalService, health: Health, settings: Settings) -> AsyncIterator[GrpcDoor]:
    """A door on the service in this process."""
    async with GrpcDoor(OpenGate(service, settings), health, settings) as door:
        yield door


@pytest.fixture
async def channel(door: GrpcDoor) -> AsyncIterator[Any]:
    """A connection to the door."""
    async with connect(door) as channel:
        yield channel


@pytest.fixture
def stub(channel: Any) -> MessagesStub:
    """A client of `trivium.v1.Messages`."""
    return MessagesStub(channel)
