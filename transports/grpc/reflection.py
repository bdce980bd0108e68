"""Server reflection: clients ask for the .proto instead of having it."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any

from grpc_reflection.v1alpha.reflection_pb2 import DESCRIPTOR, ServerReflectionRequest

from core.closing import Closing
from transports.grpc.calls import Call, Rpc
from transports.grpc.codec import parse

SERVICE = DESCRIPTOR.services_by_name["ServerReflection"]
#: The same protocol under its later name, which newer clients ask for first.
V1 = "grpc.reflection.v1.ServerReflection"


class Reflection:
    """Describes `services`."""

    def __init__(self, closing: Closing, services: Iterable[str]) -> None:
        self._closing = closing
        self._services = services

    @property
    def rpcs(self) -> Mapping[str, Rpc]:
        return {"ServerReflectionInfo": Rpc("describe", self._serve)}

    @cached_property
    def _servicer(self) -> Any:
        """Made for the first who asks: it brings the messages that describe .proto files, half a MiB."""
        from grpc_reflection.v1alpha import reflection

        return reflection.aio.ReflectionServicer(self._services)  # type: ignore[attr-defined]  # not in the stubs

    async def _serve(self, call: Call) -> None:
        async with (
            self._closing.until(),
            aclosing(_requests(call)) as requests,
            aclosing(self._servicer.ServerReflectionInfo(requests, call)) as answers,
        ):
            async for answer in answers:
                await call.write(answer.SerializeToString())


async def _requests(call: Call) -> AsyncGenerator[ServerReflectionRequest]:
    while (raw := await call.read()) is not None:
        yield parse(ServerReflectionRequest, raw)
