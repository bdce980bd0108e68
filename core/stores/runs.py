"""What one publication stored."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from core.messages import Message, StoredMessage


class Run(Struct, gc=False):
    """Messages of one topic at offsets without a gap, from `first` on; those that brought no time have `time`.

    It is kept as it came, since most messages are gone from memory before anybody reads them.
    """

    topic: str
    first: int
    time: datetime
    messages: Sequence[Message]
    bytes: int  # of memory, at most
    stored: tuple[StoredMessage, ...] = ()

    def joined(self, later: "Run") -> "Run":
        """One run of this one and `later`, which stands behind it and has the same time."""
        return Run(self.topic, self.first, self.time, (*self.messages, *later.messages), self.bytes + later.bytes)

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
