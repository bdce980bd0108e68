"""What the dashboard shows: rows of panels, and the expressions behind them, in PromQL."""

from typing import NamedTuple

from tools.promql import at, mean, per_second, quantile

GREEN, YELLOW, RED = "green", "yellow", "red"


class Query(NamedTuple):
    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: a graph, or a stat, whose colour is the answer. `steps` are (from this value on, colour)."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    steps: tuple[tuple[float, str], ...] = ()
    words: tuple[tuple[str, str], ...] = ()


def stat(title: str, text: str, expression: str, unit: str, steps: dict[float, str], **words: str) -> Panel:
    """`words` stand for a value: `_0="no"`."""
    shown = tuple((value.removeprefix("_"), word) for value, word in words.items())
    return Panel(title, text, (Query(expression),), unit, 3, "stat", tuple(steps.items()), shown)


def graph(title: str, text: str, unit: str, *queries: Query, width: int = 8) -> Panel:
    return Panel(title, text, queries, unit, width)


def by_instance(metric: str) -> Query:
    return Query(f"sum by (instance) ({at(metric)})", "{{instance}}")


#: A quiet service has no quantiles: they are NaN, which `>= 0` leaves out.
QUIET = ">= 0) or vector(0)"
P99 = "door_operation:trivium_operation_duration_seconds:p99_5m"
COMMIT_P99, LAG_P99 = (
    "instance:trivium_commit_duration_seconds:p99_5m",
    "instance:trivium_event_loop_lag_seconds:p99_5m",
)
PUBLISHING, NOT_OK = 'operation=~"Publish|StreamedPublish|Inbox"', 'code!="ok"'
FIRING = 'ALERTS{alertname=~"Trivium.*",alertstate="firing"}'

HEALTHY = (
    stat(
        "Ready",
        "Whether every instance does its work. Runbook: TriviumNotReady.",
        f"min({at('trivium_ready')} or {at('up')})",
        "short",
        {0: RED, 1: GREEN},
        _0="NO",
        _1="yes",
    ),
    stat(
        "Alerts",
        "How many alerts of Trivium are firing; docs/operations.md has a section for each.",
        f"count({FIRING}) or vector(0)",
        "short",
        {0: GREEN, 1: RED},
    ),
    stat(
        "Failures",
        "Operations that failed by no fault of the caller, at the door that is worst off.",
        f"max({at('door:trivium_operation_failures:ratio_rate5m')}) or vector(0)",
        "percentunit",
        {0: GREEN, 0.001: YELLOW, 0.01: RED},
    ),
    stat(
        "Publish, p99",
        "Until the commit, at the door that is worst off.",
        f"max({at(P99, PUBLISHING)} {QUIET}",
        "s",
        {0: GREEN, 0.1: YELLOW, 0.5: RED},
    ),
    stat(
        "Commit, p99",
        "One fsync for a group of messages: what the disk costs.",
        f"max({at(COMMIT_P99)} {QUIET}",
        "s",
        {0: GREEN, 0.05: YELLOW, 0.25: RED},
    ),
    stat(
        "RabbitMQ",
        "Whether all connections are up. Without it REST and gRPC go on. Runbook: TriviumBrokerAway.",
        f"min({at('trivium_broker_connected')})",
        "short",
        {0: RED, 1: GREEN},
        _0="AWAY",
        _1="connected",
    ),
    stat(
        "Oldest unrelayed",
        "How long a message has waited for RabbitMQ, those of held topics not counted.",
        f"max({at('trivium_relay_lag_seconds')})",
        "s",
        {0: GREEN, 10: YELLOW, 60: RED},
    ),
    stat(
        "Held topics",
        "No queue takes their messages: bind one. Runbook: TriviumTopicsHeld.",
        f"sum({at('trivium_relay_held_topics')})",
        "short",
        {0: GREEN, 1: YELLOW},
    ),
)

THROUGH = (
    graph("Operations", "By door.", "ops", Query(per_second("trivium_operations_total", "door"), "{{door}}")),
    graph(
        "Operations that did not end well",
        "By code. The callers' mistakes are among them.",
        "ops",
        Query(f"{per_second('trivium_operations_total', 'door, code', NOT_OK)} > 0", "{{door}} {{code}}"),
    ),
    graph(
        "Messages",
        "Below zero what comes in, above what goes out.",
        "cps",
        Query(per_second("trivium_messages_out_total", "door"), "out {{door}}"),
        Query(f"-{per_second('trivium_messages_in_total', 'door')}", "in {{door}}"),
    ),
    graph(
        "Bytes",
        "Below zero what comes in, above what goes out.",
        "Bps",
        Query(per_second("trivium_bytes_out_total", "door"), "out {{door}}"),
        Query(f"-{per_second('trivium_bytes_in_total', 'door')}", "in {{door}}"),
    ),
    graph(
        "Stored",
        "Messages made durable, and repetitions that were answered with their first offset.",
        "cps",
        Query(per_second("trivium_stored_messages_total"), "stored"),
        Query(per_second("trivium_duplicate_messages_total"), "repeated"),
    ),
    graph(
        "Followers",
        "Streams that are open.",
        "short",
        Query(f"sum by (door) ({at('trivium_followers')})", "{{door}}"),
    ),
)

SLOW = (
    graph(
        "Time to answer, p99",
        "Without reads that wait and streams, which last as long as asked.",
        "s",
        Query(f"max by (door, operation) ({at(P99)})", "{{door}} {{operation}}"),
    ),
    graph(
        "Commits",
        "One fsync each.",
        "s",
        Query(quantile(0.5, "trivium_commit_duration_seconds"), "p50"),
        Query(quantile(0.99, "trivium_commit_duration_seconds"), "p99"),
    ),
    graph(
        "Messages of a commit", "More company, fewer fsyncs.", "short", Query(mean("trivium_commit_messages"), "mean")
    ),
    graph(
        "Event loop lag, p99",
        "How late the loop is. Above 0.1 s: too little CPU, or something blocks it.",
        "s",
        Query(at(LAG_P99), "{{instance}}"),
    ),
    graph(
        "RabbitMQ, p99",
        "Until its confirm of what we send, and from its delivery to our outcome.",
        "s",
        Query(quantile(0.99, "messaging_client_operation_duration_seconds"), "confirm"),
        Query(quantile(0.99, "messaging_process_duration_seconds"), "process"),
    ),
    graph(
        "RPCs, p99",
        "As gRPC saw them, by method; unary ones.",
        "s",
        Query(quantile(0.99, "grpc_server_handling_seconds", "grpc_method", 'grpc_type="unary"'), "{{grpc_method}}"),
    ),
)

STUCK = (
    graph(
        "Waiting for RabbitMQ",
        "Messages not yet confirmed, by topic.",
        "short",
        Query(f"topk(10, sum by (topic) ({at('trivium_relay_lag_messages')}) > 0)", "{{topic}}"),
        Query(f"sum({at('trivium_relay_lag_messages')})", "all"),
    ),
    graph(
        "Age of the oldest",
        "The first line leaves held topics out.",
        "s",
        Query(f"max({at('trivium_relay_lag_seconds')})", "on its way"),
        Query(f"max({at('trivium_relay_oldest_unrelayed_seconds')})", "with held topics"),
    ),
    graph(
        "Topics of the relay",
        "Due: something to send. Held: no queue takes it.",
        "short",
        Query(f"sum({at('trivium_relay_due_topics')})", "due"),
        Query(f"sum({at('trivium_relay_held_topics')})", "held"),
    ),
    graph(
        "Connections to RabbitMQ",
        "1 is up; below zero: blocked, since RabbitMQ is short of memory or disk.",
        "short",
        Query(f"min by (connection) ({at('trivium_broker_connected')})", "{{connection}}"),
        Query(f"-max by (connection) ({at('trivium_broker_blocked')})", "{{connection}} blocked"),
    ),
    graph(
        "Messages to and from RabbitMQ",
        "By how it ended; confirmed is as it should be.",
        "cps",
        Query(per_second("messaging_client_sent_messages_total", "", 'error_type=""'), "confirmed"),
        Query(per_second("messaging_client_sent_messages_total", "error_type", 'error_type!=""'), "{{error_type}}"),
        Query(per_second("messaging_client_consumed_messages_total"), "delivered to us"),
    ),
    graph(
        "Dead letters",
        "Given up since the start, by reason. Runbook: TriviumDeadLetters.",
        "short",
        Query(f"sum by (source, code) ({at('trivium_dead_letters_total')})", "{{source}} {{code}}"),
    ),
)

ROOM = (
    graph(
        "Bounds",
        "How much of each is taken. Past it callers are sent away; caches and windows are meant to be full.",
        "percentunit",
        Query(f"max by (bound) ({at('bound:trivium_bound:ratio')})", "{{bound}}"),
    ),
    graph(
        "Growth",
        "Topics, and which of them grow fastest.",
        "short",
        Query(f"sum({at('trivium_topics')})", "topics"),
        Query(f"topk(5, sum by (topic) (delta({at('trivium_log_head')}[$__rate_interval])) > 0)", "{{topic}}, new"),
    ),
    graph(
        "Reads",
        "From the tail in memory, or from the disk: readers that lag.",
        "ops",
        Query(per_second("trivium_log_reads_total", "from"), "{{from}}"),
    ),
    graph(
        "Write-ahead log",
        "Falls back when the writer has a rest.",
        "bytes",
        by_instance("trivium_store_wal_bytes"),
        width=4,
    ),
    graph(
        "Left on the disk",
        "For the log, on its file system. Runbook: TriviumDiskFilling.",
        "bytes",
        by_instance("trivium_store_free_bytes"),
        width=4,
    ),
    graph("Memory", "Resident.", "bytes", by_instance("process_resident_memory_bytes"), width=4),
    graph(
        "Cores",
        "One loop and one writer thread take little more than one.",
        "short",
        Query(per_second("process_cpu_seconds_total", "instance"), "{{instance}}"),
        width=4,
    ),
    graph(
        "File descriptors",
        "Of those that the system allows.",
        "percentunit",
        Query(f"{at('process_open_fds')} / {at('process_max_fds')}", "{{instance}}"),
        width=4,
    ),
    stat(
        "Up since",
        "Of the instance that started last.",
        f"max({at('process_start_time_seconds')}) * 1000",
        "dateTimeFromNow",
        {0: GREEN},
    )._replace(width=4),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Is it healthy, what is slow, what is stuck?", HEALTHY),
    ("What goes through", THROUGH),
    ("What is slow", SLOW),
    ("What is stuck", STUCK),
    ("Room", ROOM),
)
