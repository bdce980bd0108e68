"""Messages that stand one behind another."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from core.messages import Message, StoredMessage, held


class Run(Struct, gc=False):
    """Messages of one topic at offsets without a gap, from `first` on; those that brought no time have `time`.

    They are kept as they came, since most are gone from memory before anybody reads them.
    """

    topic: str
    first: int
    time: datetime
    messages: Sequence[Message]
    bytes: int  # of memory, with a margin
    stored: tuple[StoredMessage, ...] = ()

    def joined(self, later: "Run") -> "Run":
        """One run of this one and `later`, which stands behind it and has the same time."""
        return Run(self.topic, self.first, self.time, (*self.messages, *later.messages), self.bytes + later.bytes)

    def parts(self, most_bytes: int) -> Iterator["Run"]:
        """It, or if it is larger, in its place runs of so many bytes or one message each."""
        if self.bytes <= most_bytes:
            yield self
            return
        at, size = 0, 0
        for index, message in enumerate(self.messages):
            cost = held(message)
            if size and size + cost > most_bytes:
                yield Run(self.topic, self.first + at, self.time, self.messages[at:index], size)
                at, size = index, 0
            size += cost
        yield Run(self.topic, self.first + at, self.time, self.messages[at:], size)

    def newest(self) -> StoredMessage:
        """The last of them at its place."""
        if self.stored:
            return self.stored[-1]
        message = self.messages[-1]
        return StoredMessage(self.topic, self.first + len(self.messages) - 1, message.time or self.time, message)

    def places(self) -> tuple[StoredMessage, ...]:
        """The messages at their places, the same ones for everybody who reads them."""
        if not self.stored:
            self.stored = tuple(
                [
                    StoredMessage(self.topic, offset, message.time or self.time, message)
                    for offset, message in enumerate(self.messages, self.first)
                ]
            )
        return self.stored
