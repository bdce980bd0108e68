"""What the relay knows of a topic that it sends, or sent lately."""

import math
from collections import deque

from core.messages import StoredMessage, weight


class Sent:
    """A message in flight."""

    __slots__ = ("bytes", "confirmed", "data_bytes", "offset", "round")

    def __init__(self, stored: StoredMessage, round_: int) -> None:
        self.offset = stored.offset
        self.bytes = weight(stored.message)
        self.data_bytes = len(stored.message.data)
        self.round = round_
        self.confirmed = False


class Route:
    """A topic that has something to relay.

    Everything up to `cursor` is confirmed; `cursor + 1 .. sent` is in flight. A failure starts a new
    `round` from the cursor: answers to sends of an earlier round no longer count. The window is open once
    a message of the round was confirmed; until then one message at a time goes out, as a probe.
    """

    __slots__ = (
        "_later", "_mark", "cursor", "due_since", "failures", "head", "held", "in_flight", "open", "queued", "round",
        "sent", "topic", "unroutable"
    )  # fmt: skip

    def __init__(self, topic: str, cursor: int) -> None:
        self.topic = topic
        self.cursor = cursor
        self.sent = cursor
        self.head = cursor
        self.due_since = math.inf  # when the message after the cursor came, or earlier
        self._mark = cursor  # what came up to here came since `due_since`, what came later since `_later`
        self._later = math.inf
        self.in_flight: deque[Sent] | None = None  # an empty one takes more than the rest, and most have nothing there
        self.open = False
        self.round = 0
        self.failures = 0
        self.queued = False  # waits for its turn, or has it
        self.held = False  # pauses
        self.unroutable = False  # since a message that no queue took

    def came(self, head: int, now: float) -> int:
        """There are messages up to `head`; how many of them are new."""
        new = head - self.head
        if new <= 0:
            return 0
        if self.head == self.cursor:
            self.due_since, self._mark, self._later = now, head, math.inf
        else:
            self._later = min(self._later, now)
        self.head = head
        return new

    def confirmed(self, cursor: int) -> None:
        """Everything up to `cursor` is confirmed."""
        self.cursor = cursor
        if cursor >= self._mark:
            self.due_since, self._mark, self._later = self._later, self.head, math.inf

    @property
    def ready(self) -> bool:
        return not self.queued and not self.held and self.sent < self.head and (self.open or not self.in_flight)
