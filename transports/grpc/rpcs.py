"""What is counted of an RPC, as go-grpc-prometheus has it."""

from collections import Counter
from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor

from core.telemetry import vocabulary
from core.telemetry.figures import Figure
from core.telemetry.meter import CANCELLED, OK, Instrument
from transports.grpc.errors import STATUS

#: Of each code of ours, the name that Go gives to gRPC's, which the dashboards of go-grpc-prometheus look for.
_GO = {
    OK: "OK",
    CANCELLED: "Canceled",
    **{kind.code: status.name.title().replace("_", "") for kind, status in STATUS.items()},
}
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class RpcCounts:
    """One RPC of the contract; its instrument counts how calls of it ended."""

    __slots__ = ("_labels", "instrument", "is_stream", "name", "received", "sent", "started")

    def __init__(self, service: str, method: MethodDescriptor, instrument: Instrument) -> None:
        self.name = f"{service}/{method.name}"
        self.instrument = instrument
        self.is_stream = method.client_streaming or method.server_streaming
        self.started = self.received = self.sent = 0
        kind = _TYPES[method.client_streaming, method.server_streaming]
        self._labels = kind, service, method.name

    def figures(self) -> Iterator[Figure]:
        by_status: Counter[str] = Counter()
        for code, count in self.instrument.codes.items():
            by_status[_GO[code]] += count
        yield vocabulary.GRPC_STARTED.of(self.started, *self._labels)
        for status, count in by_status.items():
            yield vocabulary.GRPC_HANDLED.of(count, *self._labels, status)
        yield vocabulary.GRPC_RECEIVED.of(self.received, *self._labels)
        # the one answer of an RPC that is none of the streams is sent by gRPC itself
        yield vocabulary.GRPC_SENT.of(self.sent if self.is_stream else by_status["OK"], *self._labels)
        if self.instrument.seconds.sum:
            yield vocabulary.GRPC_SECONDS.of(self.instrument.seconds, *self._labels)
