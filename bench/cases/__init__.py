"""The table: every line of what is promised, and who does the same work beside us."""

from bench.cases import amqp, fan_out, growth, grpc, overhead, reading, rest, system
from bench.contests import Case

CASES: tuple[Case, ...] = (
    *rest.CASES,
    *grpc.CASES,
    *reading.CASES,
    *amqp.CASES,
    *fan_out.CASES,
    *system.CASES,
    *overhead.CASES,
    *growth.CASES,
)
