"""A broker in memory that keeps the promises of `BrokerPublisher`; `tests/conformance` holds it to them."""

import asyncio
from asyncio import Future

from core.messages import StoredMessage
from core.ports import Undeliverable, Unroutable


class FakeBroker:
    """Takes every message of a bound topic. `down` and `up` are a broker that goes away and comes back."""

    def __init__(self, *bindings: str) -> None:
        """`bindings` are patterns as a topic exchange has them: `#` (any words), `*` (one word)."""
        self.messages: list[StoredMessage] = []
        self._bindings = set(bindings)
        self._up = asyncio.Event()
        self._up.set()
        self._arrived = asyncio.Event()
        self._unconfirmed: list[Future[None]] = []

    def bind(self, pattern: str) -> None:
        """Give a queue to the topics that match."""
        self._bindings.add(pattern)

    def down(self) -> None:
        """Go away: what is not confirmed fails, nothing is taken."""
        self._up.clear()
        for answer in self._unconfirmed:
            if not answer.done():
                answer.set_exception(Undeliverable("the broker is away"))
        self._unconfirmed.clear()

    def up(self) -> None:
        """Come back."""
        self._up.set()

    async def ready(self) -> None:
        await self._up.wait()

    def publish(self, stored: StoredMessage) -> Future[None]:
        loop = asyncio.get_running_loop()
        answer: Future[None] = loop.create_future()
        if not self._up.is_set():
            answer.set_exception(Undeliverable("the broker is away"))
        elif not any(matches(pattern, stored.topic) for pattern in self._bindings):
            answer.set_exception(Unroutable(f"no queue is bound for {stored.topic}"))
        else:
            self.messages.append(stored)
            self._unconfirmed.append(answer)
            loop.call_soon(self._confirm)
        return answer

    async def received(self, count: int) -> list[StoredMessage]:
        """The messages taken so far, once there are `count`."""
        while len(self.messages) < count:
            await self._arrived.wait()
        return self.messages

    def _confirm(self) -> None:
        for answer in self._unconfirmed:
            if not answer.done():
                answer.set_result(None)
        self._unconfirmed.clear()
        self._arrived.set()
        self._arrived = asyncio.Event()


def matches(pattern: str, topic: str) -> bool:
    """Whether a binding key takes a routing key (AMQP 0-9-1, section 3.1.3.3)."""

    def match(keys: list[str], words: list[str]) -> bool:
        if not keys:
            return not words
        if keys[0] == "#":
            return match(keys[1:], words) or (bool(words) and match(keys, words[1:]))
        return bool(words) and keys[0] in ("*", words[0]) and match(keys[1:], words[1:])

    return match(pattern.split("."), topic.split("."))
