"""grpc.health.v1.Health, told by the health of the service.

The servicer of grpcio-health-checking is not used, only its protocol: its Watch holds a lock while it writes, so that
one stalled watcher would stop the news for all, and it never ends by itself when the door closes.
"""

import asyncio
from collections.abc import Collection, Mapping

from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse, HealthListResponse

from core.closing import Closing
from core.errors import NotFound
from core.health import Health
from transports.grpc.calls import Call, Rpc, unary
from transports.grpc.codec import parse

SERVICE = DESCRIPTOR.services_by_name["Health"]


class HealthChecks:
    """Check, List and Watch for `services` by name; "" is the server as a whole. All of them are well or none is."""

    def __init__(self, health: Health, closing: Closing, services: Collection[str]) -> None:
        self._health = health
        self._closing = closing
        self._services = services
        self._changed = asyncio.Event()
        health.listen(self._tell)

    @property
    def rpcs(self) -> Mapping[str, Rpc]:
        return {
            "Check": unary("health", self._check),
            "List": unary("health", self._list),
            "Watch": Rpc("health", self._watch),
        }

    async def _check(self, _: Call, raw: bytes) -> bytes:
        service = parse(HealthCheckRequest, raw).service
        if service not in self._services:
            raise NotFound("the server has no such service", field="service")
        return _encode(self._answer(service))

    async def _list(self, _: Call, __: bytes) -> bytes:
        statuses = {service: self._answer(service) for service in self._services}
        return _encode(HealthListResponse(statuses=statuses))

    async def _watch(self, call: Call) -> None:
        service = parse(HealthCheckRequest, await call.request()).service
        told: HealthCheckResponse | None = None
        async with self._closing.until():
            while True:
                changed = self._changed
                answer = self._answer(service)
                if answer != told:
                    await call.write(_encode(answer))
                    told = answer
                await changed.wait()

    def _answer(self, service: str) -> HealthCheckResponse:
        if service not in self._services:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        elif self._health.ready:
            status = HealthCheckResponse.SERVING
        else:
            status = HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _encode(answer: Message) -> bytes:
    return answer.SerializeToString()
