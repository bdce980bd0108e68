"""What clients of the gRPC door do in its tests."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, StreamEnded, StreamReset
from msgspec import Struct

from core.telemetry.vocabulary import OPERATIONS
from proto.trivium.v1 import messages_pb2 as pb
from transports.grpc.door import GrpcDoor


class Failure(Struct, frozen=True):
    """How a call failed, with its details."""

    code: grpc.StatusCode
    text: str
    reason: str | None
    field: str | None
    retry_after: float | None


def connect(door: GrpcDoor) -> Any:
    """A connection that nobody else shares. Any, since the stubs of channels ask for arguments that have defaults."""
    return grpc.aio.insecure_channel(
        door.address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    )


async def failure(call: Awaitable[object]) -> Failure:
    """The failure that `call` must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return failure_of(raised.value)


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has what a call has
    found: dict[type, Any] = {}
    for packed in status.details if status else ():
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            detail = kind()
            if packed.Unpack(detail):
                found[kind] = detail
    info, bad, retry = (found.get(kind) for kind in (ErrorInfo, BadRequest, RetryInfo))
    assert info is None or info.domain == "trivium"
    return Failure(
        error.code(),
        error.details() or "",
        info.reason if info else None,
        bad.field_violations[0].field if bad else None,
        retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def request(topic: str, *data: bytes) -> pb.PublishRequest:
    return pb.PublishRequest(topic=topic, messages=[pb.Message(data=one) for one in data])


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def calls(door: GrpcDoor, operation: str) -> dict[str, Any]:
    """What the door has counted of an operation, by code."""
    return {
        figure.labels[2]: figure.value
        for figure in door.figures()
        if figure.metric is OPERATIONS and figure.labels[1] == operation and figure.value
    }


class RawClient:
    """A peer that speaks HTTP/2 and nothing else, to say what no gRPC library would."""

    def __init__(self, door: GrpcDoor) -> None:
        host, port = door.address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setblocking(False)
        self._connection = H2Connection(H2Configuration(header_encoding=None, validate_outbound_headers=False))
        self._connection.initiate_connection()

    def send(self, path: bytes, body: bytes, *, end: bool = True) -> None:
        """Open a call and send `body` as it is."""
        self._connection.send_headers(
            1,
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
            ],
        )
        self._connection.send_data(1, body, end_stream=end)
        self._socket.sendall(self._connection.data_to_send())

    async def status(self) -> int:
        """The `grpc-status` that the call ended with."""
        events: list[Event] = []
        loop = asyncio.get_running_loop()
        while not any(isinstance(event, StreamEnded | StreamReset) for event in events):
            events += self._connection.receive_data(await loop.sock_recv(self._socket, 65536))
            await loop.sock_sendall(self._socket, self._connection.data_to_send())
        return _grpc_status(events)

    def close(self) -> None:
        self._socket.close()


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + struct.pack(">I", len(message)) + message


def _grpc_status(events: Iterable[Event]) -> int:
    for event in events:
        headers = getattr(event, "headers", None) or ()
        for name, value in headers:
            if name == b"grpc-status":
                return int(value)
    raise AssertionError(f"no status among {[type(event).__name__ for event in events]}")
