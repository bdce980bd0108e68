"""A service that fails as a test says."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence

from core.errors import TriviumError
from core.messages import Message, Published
from core.service import LocalService


class Scripted(LocalService):
    """The service, whose publishes fail while it is `down`, or are held until `gate` is set."""

    down: TriviumError | None
    gate: asyncio.Event
    attempts: list[str]  # the ids of those that were published alone
    batches: list[int]  # how many messages each publication had
    raises: Callable[[Message], TriviumError | None]

    def start(self) -> None:
        self.down = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.attempts = []
        self.batches = []
        self.raises = lambda message: None

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        """An error of `raises` for any of the messages is raised at the call; that of `down` comes as the answer."""
        self.batches.append(len(messages))
        if len(messages) == 1:
            self.attempts.append(messages[0].id)
        for message in messages:
            if error := self.raises(message):
                raise error
        if self.down is not None:
            answer: Future[tuple[Published, ...]] = asyncio.get_running_loop().create_future()
            answer.set_exception(self.down)
            return answer
        if self.gate.is_set():
            return super().publish(topic, messages)
        return asyncio.ensure_future(self._held(topic, messages))

    async def _held(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        await self.gate.wait()
        return await super().publish(topic, messages)
