"""What the relay knows of a topic that it sends, or sent lately."""

from collections import deque


class Sent:
    """A message in flight."""

    __slots__ = ("bytes", "confirmed", "offset", "round")

    def __init__(self, offset: int, size: int, round_: int) -> None:
        self.offset = offset
        self.bytes = size
        self.round = round_
        self.confirmed = False


class Route:
    """A topic that has something to relay.

    Everything up to `cursor` is confirmed; `cursor + 1 .. sent` is in flight. A failure starts a new
    `round` from the cursor: answers to sends of an earlier round no longer count. The window is open once
    a message of the round was confirmed; until then one message at a time goes out, as a probe.
    """

    __slots__ = (
        "cursor", "failures", "head", "held", "in_flight", "open", "queued", "round", "sent", "topic", "unroutable"
    )  # fmt: skip

    def __init__(self, topic: str, cursor: int, head: int) -> None:
        self.topic = topic
        self.cursor = cursor
        self.sent = cursor
        self.head = head
        self.in_flight: deque[Sent] = deque()
        self.open = False
        self.round = 0
        self.failures = 0
        self.queued = False  # waits for its turn, or has it
        self.held = False  # pauses
        self.unroutable = False  # since a message that no queue took

    @property
    def ready(self) -> bool:
        return not self.queued and not self.held and self.sent < self.head and (self.open or not self.in_flight)
