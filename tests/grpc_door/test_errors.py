"""Errors as gRPC statuses."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata

from core.errors import Overloaded, TriviumError
from core.remote.links import Unreachable
from transports.grpc.errors import STATUS, error_of, refusal, status_of


def subclasses(kind: type[TriviumError]) -> set[type[TriviumError]]:
    return {kind for direct in kind.__subclasses__() for kind in (direct, *subclasses(direct))}


def test_every_error_has_a_status() -> None:
    """The table knows every error that the service can raise."""
    assert set(STATUS) == subclasses(TriviumError)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_argument", Code.INVALID_ARGUMENT),
        ("not_found", Code.NOT_FOUND),
        ("method_not_allowed", Code.UNIMPLEMENTED),
        ("conflict", Code.ALREADY_EXISTS),
        ("too_large", Code.RESOURCE_EXHAUSTED),
        ("unsupported_media_type", Code.INVALID_ARGUMENT),
        ("overloaded", Code.RESOURCE_EXHAUSTED),
        ("unavailable", Code.UNAVAILABLE),
        ("deadline_exceeded", Code.DEADLINE_EXCEEDED),
        ("internal", Code.INTERNAL),
    ],
)
def test_statuses_are_those_of_the_contract(code: str, status: int) -> None:
    """Each code of the error table has the gRPC status that is documented for it."""
    (kind,) = (kind for kind in STATUS if kind.code == code)
    error = kind("why", field="wait")
    assert status_of(error).code.value[0] == status
    assert refusal(error).code == status
    assert refusal(error).reason == code


def test_fields_have_the_names_of_the_proto() -> None:
    """A caller reads the name that stands in the .proto, in the field and in the text."""
    error = Overloaded("too long", field="wait", retry_after=1.5)
    assert status_of(error).details == "wait_seconds: too long"
    assert (refusal(error).field, refusal(error).retry_after_seconds) == ("wait_seconds", 1.5)


@pytest.mark.parametrize("name", ["ErrorInfo", "BadRequest", "RetryInfo"])
def test_a_detail_that_can_not_be_read_tells_nothing(name: str) -> None:
    """Something else may be where an edge looks for its core."""
    details = [Any(type_url=f"type.googleapis.com/google.rpc.{name}", value=b"\xff")]
    trailing = Metadata(("grpc-status-details-bin", Status(code=14, details=details).SerializeToString()))
    error = error_of(AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), trailing, "elsewhere", None))
    assert isinstance(error, Unreachable)
    assert error.detail == "elsewhere"


def test_absent_parts_stay_absent() -> None:
    """A refusal without a field and a time to retry holds neither."""
    (internal,) = (kind for kind in STATUS if STATUS[kind] is grpc.StatusCode.INTERNAL)
    refused = refusal(internal("broken"))
    assert (refused.field, refused.message) == ("", "broken")
    assert not refused.HasField("retry_after_seconds")
