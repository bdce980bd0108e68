"""Every metric, its labels and what it says: what is exposed stands here, and docs/metrics.md is made from it.

Names follow Prometheus (base units, `_total` on counters), those of gRPC follow go-grpc-prometheus, those of messaging
the semantic conventions of OpenTelemetry. A label never holds what a client chooses freely, so the number of series is
bounded: topics have series of their own up to `metrics_topics`, the rest is added up under `_other`.
"""

from core.telemetry.figures import Kind, Metric

#: Stands for all topics without a series of their own. No topic can be named so.
OTHER = "_other"

#: From half a millisecond, which a publish takes on a fast disk, to a minute, which is the longest a read may wait.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Messages of one commit group.
MESSAGES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, text, labels)


def _histogram(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, text, labels)


# The service. `door` is rest, grpc or amqp; `operation` is what gRPC and the AMQP RPC call it (GetData, Publish, ...).
# Beside these there are Inbox (one message from the queue), StreamedPublish (one request of a PublishStream) and
# Unknown (what was for no operation, or refused before that was clear).
# `code` is a code of core/errors.py, ok, or cancelled where the client went away.

BUILD = _gauge("trivium_build_info", "Always 1; the label tells the version.", "version")
READY = _gauge("trivium_ready", "1 while the service does its work, as /readyz tells it.")
CHECK = _gauge(
    "trivium_check_state", "How each part is: 0 well, 1 degraded (the rest does its work), 2 failed.", "check"
)
OPERATIONS = _counter(
    "trivium_operations", "Operations that ended, by what became of them.", "door", "operation", "code"
)
OPERATION_SECONDS = _histogram(
    "trivium_operation_duration_seconds",
    "Time from the whole request to its answer; of a stream its life, of a read that waits its waiting too.",
    "door",
    "operation",
)
MESSAGES_IN = _counter(
    "trivium_messages_in", "Messages that came to be stored; repeated ones and later failures are in it.", "door"
)
BYTES_IN = _counter("trivium_bytes_in", "Their data.", "door")
MESSAGES_OUT = _counter(
    "trivium_messages_out", "Messages read or followed; at AMQP also those relayed and confirmed.", "door"
)
BYTES_OUT = _counter("trivium_bytes_out", "Their data.", "door")
FOLLOWERS = _gauge("trivium_followers", "Streams that follow a topic now.", "door")
BOUND_USED = _gauge("trivium_bound_used", "How much of a bound is taken: messages, bytes or places.", "bound")
BOUND_LIMIT = _gauge("trivium_bound_limit", "The bound; past it a caller hears `overloaded`, or waits.", "bound")
LOOP_LAG = _histogram(
    "trivium_event_loop_lag_seconds", "How late the event loop did what was due, looked at four times a second."
)

# The log.

TOPICS = _gauge("trivium_topics", "Topics that hold messages.")
LOG_HEAD = _gauge("trivium_log_head", "Offset of the newest message; for `_other` the sum over the topics.", "topic")
STORED = _counter("trivium_stored_messages", "Messages made durable.")
DUPLICATES = _counter(
    "trivium_duplicate_messages", "Messages that were stored before, answered with their first offset."
)
COMMITS = _counter("trivium_commits", "Groups that were committed.")
COMMIT_FAILURES = _counter("trivium_commit_failures", "Groups that were not: the disk is full, broken or too slow.")
COMMIT_SECONDS = _histogram("trivium_commit_duration_seconds", "From handing a group to the disk to its commit.")
COMMIT_MESSAGES = _histogram("trivium_commit_messages", "Messages stored by one group.")
READS = _counter(
    "trivium_log_reads", "Reads that found something, by where: in the tail (memory) or on the disk.", "from"
)
WAL_BYTES = _gauge("trivium_store_wal_bytes", "The write-ahead log of SQLite, as far as it is not checkpointed.")
FREE_BYTES = _gauge(
    "trivium_store_free_bytes", "What is left for the log on its file system; none where it is in memory."
)

# The relay, from the log to RabbitMQ.

RELAY_LAG = _gauge("trivium_relay_lag_messages", "Messages stored and not yet confirmed by the broker.", "topic")
RELAY_LAG_SECONDS = _gauge(
    "trivium_relay_lag_seconds", "Age of the oldest message that waits for the broker, in topics that are not held."
)
RELAY_OLDEST_SECONDS = _gauge(
    "trivium_relay_oldest_unrelayed_seconds",
    "The same, held topics included. Counted from the commit, or from the start of the process.",
)
RELAY_DUE = _gauge("trivium_relay_due_topics", "Topics that have something to relay.")
RELAY_HELD = _gauge("trivium_relay_held_topics", "Topics whose next message no queue takes.")
RELAYED = _counter("trivium_relayed_messages", "Messages that the broker holds, or that were skipped by setting.")
RELAY_SKIPPED = _counter("trivium_relay_skipped_messages", "Messages that no queue took, skipped by setting.")
RELAY_FAILURES = _counter(
    "trivium_relay_failures",
    "Rounds that ended early: unroutable, undeliverable, or the log could not be read.",
    "reason",
)

# RabbitMQ. `connection` is intake, output or answers.

BROKER_CONNECTED = _gauge(
    "trivium_broker_connected", "1 while the connection is up and its queues are ours.", "connection"
)
BROKER_BLOCKED = _gauge(
    "trivium_broker_blocked", "1 while an alarm of RabbitMQ stops what is sent on it.", "connection"
)
BROKER_CONNECTIONS = _counter(
    "trivium_broker_connections", "Connections made; after the first, reconnects.", "connection"
)
DEAD_LETTERS = _counter("trivium_dead_letters", "Messages given up, by the code of the reason.", "source", "code")

# By the semantic conventions of OpenTelemetry for messaging. `error_type` is empty for what was confirmed, else nack,
# return, timeout (no confirm in time), lost (connection or channel) or refused (never sent).

_MESSAGING = ("messaging_system", "messaging_operation_name", "messaging_destination_name")
SENT = _counter(
    "messaging_client_sent_messages", "Messages published to RabbitMQ and settled.", *_MESSAGING, "error_type"
)
SEND_SECONDS = _histogram(
    "messaging_client_operation_duration_seconds",
    "From publishing to RabbitMQ's confirm; one message at a time is timed.",
    *_MESSAGING,
)
CONSUMED = _counter("messaging_client_consumed_messages", "Messages that RabbitMQ delivered.", *_MESSAGING)
PROCESS_SECONDS = _histogram(
    "messaging_process_duration_seconds", "From taking a message in hand to its outcome.", *_MESSAGING
)

# As go-grpc-prometheus names them, for every RPC, health checks and reflection included.

_RPC = ("grpc_type", "grpc_service", "grpc_method")
GRPC_STARTED = _counter("grpc_server_started", "RPCs started.", *_RPC)
GRPC_HANDLED = _counter("grpc_server_handled", "RPCs completed, by status code.", *_RPC, "grpc_code")
GRPC_RECEIVED = _counter("grpc_server_msg_received", "Messages of RPCs received.", *_RPC)
GRPC_SENT = _counter("grpc_server_msg_sent", "Messages of RPCs sent.", *_RPC)
GRPC_SECONDS = _histogram(
    "grpc_server_handling_seconds", "Time until the RPC was handled; of a stream its life.", *_RPC
)

#: All of them, in this order.
VOCABULARY: tuple[Metric, ...] = tuple(value for value in globals().values() if isinstance(value, Metric))
