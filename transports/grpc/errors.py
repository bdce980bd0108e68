"""The table from the codes of Trivium to gRPC's, and errors in the form of `google.rpc.Status`."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PermissionDenied,
    TooLarge,
    TriviumError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from core.remote.links import Unreachable, told
from proto.trivium.v1 import messages_pb2 as pb

DOMAIN = "trivium"
STATUS: Mapping[type[TriviumError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    MethodNotAllowed: grpc.StatusCode.UNIMPLEMENTED,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Internal: grpc.StatusCode.INTERNAL,
}
#: Fields that the .proto calls otherwise than the core.
_FIELDS = {"wait": "wait_seconds"}
_CORE_FIELDS = {ours: field for field, ours in _FIELDS.items()}


def status_of(error: TriviumError) -> grpc.Status:
    """The status that ends a call, its details in the trailer `grpc-status-details-bin`."""
    field = _field(error)
    status = Status(code=STATUS[type(error)].value[0], message=_text(error))
    _attach(status, ErrorInfo(reason=error.code, domain=DOMAIN))
    if field is not None:
        _attach(status, BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=error.detail)]))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        _attach(status, RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


def refusal(error: TriviumError) -> pb.Status:
    """The same within a stream that goes on."""
    return pb.Status(
        code=STATUS[type(error)].value[0],
        reason=error.code,
        message=_text(error),
        field=_field(error),
        retry_after_seconds=error.retry_after,
    )


def error_of(error: grpc.aio.AioRpcError) -> TriviumError | Unreachable:
    """What a Trivium answered with; `Unreachable` if none did, `DeadlineExceeded` if it took too long."""
    status = _details_of(error)
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        with suppress(DecodeError):
            detail.Unpack(info) or detail.Unpack(bad) or detail.Unpack(retry)
    retry_after = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    if info.domain == DOMAIN:
        violation = next(iter(bad.field_violations), None)
        if violation is None:
            return told(info.reason, status.message, retry_after=retry_after)
        field = _CORE_FIELDS.get(violation.field, violation.field)
        return told(info.reason, violation.description, field=field, retry_after=retry_after)
    text = error.details() or error.code().name
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(text)
    return Unreachable(text, retry_after=retry_after)


def _details_of(error: grpc.aio.AioRpcError) -> Status:
    """The details that came with the status; empty if none did, or they are none."""
    trailing: Any = error.trailing_metadata() or ()  # pairs, which the stubs do not know
    for name, value in trailing:
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            with suppress(DecodeError):
                return Status.FromString(value)
    return Status()


def _field(error: TriviumError) -> str | None:
    return None if error.field is None else _FIELDS.get(error.field, error.field)


def _text(error: TriviumError) -> str:
    field = _field(error)
    return error.detail if field is None else f"{field}: {error.detail}"


def _attach(status: Status, detail: ProtobufMessage) -> None:
    status.details.add().Pack(detail)
