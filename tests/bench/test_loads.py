"""What wrk and h2load print."""

import json

import pytest

from bench.cases.grpc import frame
from bench.cases.rest import batch
from bench.figures import Sample
from bench.loads import LoadFailed, h2load_count, h2load_sample, wrk_count, wrk_sample
from bench.store import json_of
from proto.trivium.v1 import messages_pb2 as pb

WRK = """Running 1s test @ http://127.0.0.1:8080
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms  410.00us   6.10ms   80.00%
Requests/sec:  20000.00

"""
H2LOAD = """starting benchmark...
finished in 2.00s, 5000.00 req/s, 1.53MB/s
requests: 10032 total, 10032 started, 10000 done, {done} succeeded, 0 failed, 0 errored, 0 timeout
status codes: {done} 2xx, 0 3xx, 0 4xx, {failed} 5xx
traffic: 3.06MB (3206040) total, 1.20MB (1258000) headers (space savings 32.13%), 498.05KB (510000) data
"""


def wrk_text(refused: int = 0, broken: int = 0) -> str:
    found = {"requests": 40_000, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 4.0, "refused": refused, "broken": broken}
    return WRK + json.dumps(found) + "\n"


def test_wrk_tells_rate_and_percentiles() -> None:
    """The line of load.lua stands behind what wrk prints by itself."""
    assert wrk_sample(wrk_text()) == Sample(rate=20_000, p50_ms=1.5, p99_ms=4.0)
    assert wrk_count(wrk_text()) == 40_000


@pytest.mark.parametrize("text", [wrk_text(refused=1), wrk_text(broken=41), WRK, ""])
def test_wrk_with_failures_has_no_figures(text: str) -> None:
    """A server that refuses fast must not win."""
    with pytest.raises(LoadFailed):
        wrk_sample(text)


def test_h2load_tells_the_rate_and_its_log_the_percentiles() -> None:
    """Times of the log are microseconds, in the order in which requests ended."""
    log = "".join(f"1700000000000000\t200\t{micros}\n" for micros in (4000, 1000, 3000, 2000))
    found = h2load_sample(H2LOAD.format(done=10_000, failed=0), log)
    assert found == Sample(rate=5000, p50_ms=3.0, p99_ms=4.0)


def test_h2load_counts_nothing_where_a_request_failed() -> None:
    """A status of 5xx ends the case; so does output that is none."""
    with pytest.raises(LoadFailed, match="5xx"):
        h2load_count(H2LOAD.format(done=9_999, failed=1))
    with pytest.raises(LoadFailed):
        h2load_count("error: connection refused")


def test_frame_holds_what_a_client_would_send() -> None:
    """The prebuilt bytes are a flag, a length and a PublishRequest with messages of the size asked for."""
    found = frame(1024, 3)
    assert found[0] == 0
    assert int.from_bytes(found[1:5]) == len(found) - 5
    request = pb.PublishRequest.FromString(found[5:])
    assert [len(message.data) for message in request.messages] == [1024] * 3


def test_batch_has_a_place_for_an_id_in_each_event() -> None:
    """Events with the same ids would be repetitions, which store nothing."""
    events = json.loads(batch(256, "/").body)
    assert [event["id"] for event in events] == ["{id}"] * 100
    assert len(json_of(256)) == 256
    assert events[0]["data"] == json.loads(json_of(256))
