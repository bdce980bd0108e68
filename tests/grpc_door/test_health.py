"""grpc.health.v1 and reflection, which tools expect of a gRPC server."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from core.health import Health, State
from tests.grpc_door.clients import failure

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICES = pytest.mark.parametrize("service_name", ["", "trivium.v1.Messages", "trivium.v1.Keys"])


@pytest.fixture
def checks(channel: Any) -> Any:
    return HealthStub(channel)


@SERVICES
async def test_check_tells_whether_the_service_is_ready(service_name: str, checks: Any, health: Health) -> None:
    """The server as a whole and the service by name serve while no check has failed."""
    asked = HealthCheckRequest(service=service_name)
    assert (await checks.Check(asked)).status == SERVING
    health.report("store", State.FAILED)
    assert (await checks.Check(asked)).status == NOT_SERVING


async def test_unknown_services_are_not_found(checks: Any) -> None:
    """Check refuses a service that is not here, Watch says that it is unknown and stays."""
    failed = await failure(checks.Check(HealthCheckRequest(service="nothing")))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "not_found")
    watch = checks.Watch(HealthCheckRequest(service="nothing"))
    assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_all_services_are_listed(checks: Any) -> None:
    """List tells the health of all services at once."""
    answer = await checks.List(HealthListRequest())
    names = ("", "trivium.v1.Messages", "trivium.v1.Keys")
    assert {name: one.status for name, one in answer.statuses.items()} == dict.fromkeys(names, SERVING)


@SERVICES
async def test_watch_tells_every_change(service_name: str, checks: Any, health: Health) -> None:
    """A watcher hears the state at once and again whenever it turns; draining is the last turn."""
    watch = checks.Watch(HealthCheckRequest(service=service_name))
    told = [(await watch.read()).status]
    changes: list[Callable[[], None]] = [
        lambda: health.report("store", State.FAILED),
        lambda: health.report("store", State.OK),
        health.drain,
    ]
    for change in changes:
        change()
        told.append((await watch.read()).status)
    assert told == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
    watch.cancel()


async def test_health_garbage_is_an_invalid_argument(channel: Any) -> None:
    """Bytes that are no request get the same answer as at the other services."""
    failed = await failure(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_the_services(version: str, channel: Any) -> None:
    """A client without the .proto learns the services, and the file that describes ours."""
    reflect = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )()
    await reflect.write(ServerReflectionRequest(list_services=""))
    listed = await reflect.read()
    assert {one.name for one in listed.list_services_response.service} == {
        "trivium.v1.Messages",
        "trivium.v1.Keys",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    await reflect.write(ServerReflectionRequest(file_containing_symbol="trivium.v1.Messages"))
    described = await reflect.read()
    assert len(described.file_descriptor_response.file_descriptor_proto) == 2
    await reflect.done_writing()
    assert await reflect.code() is grpc.StatusCode.OK
