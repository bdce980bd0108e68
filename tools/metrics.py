"""Writes docs/metrics.md from the vocabulary: python -m tools.metrics"""

from pathlib import Path

from core.telemetry.figures import Kind, Metric
from core.telemetry.vocabulary import VOCABULARY

TARGET = Path("docs/metrics.md")
HEAD = """# Metrics

Written from `core/telemetry/vocabulary.py` by `python -m tools.metrics`. Beside these there are the `process_*` and
`python_*` metrics of Prometheus' Python client. A histogram has `_bucket`, `_count` and `_sum`.

- `door` is `rest`, `grpc` or `amqp`. `operation` is what gRPC and the AMQP RPC call it; also `Inbox` (one message from
  the queue), `StreamedPublish` (one request of a `PublishStream`) and `Unknown` (for no operation, or refused before
  that was clear).
- `code` is a code of the README's table, `ok`, or `cancelled` where the client went away.
- `topic` names the oldest `--metrics-topics` topics; all others are one series, `_other`.
- `bound` is what can be full: `trivium_bound_used / trivium_bound_limit` fits all of them.
- `connection` is one of the three to RabbitMQ: `intake`, `output`, `answers`. `error_type` is empty for what was
  confirmed, else `nack`, `return` (no queue), `timeout`, `lost` (with its channel) or `refused` (never sent).

| metric | type | labels | what it says |
| --- | --- | --- | --- |
"""


def document() -> str:
    """The whole text."""
    return HEAD + "".join(map(_row, VOCABULARY))


def _row(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.kind is Kind.COUNTER else metric.name
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{name}` | {metric.kind} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    TARGET.write_text(document())
