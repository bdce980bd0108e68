"""The last answers, for the time in which the core can't be asked."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeAlias

from core.messages import Greeting, Page, StaleGreeting, StaleMessage, StalePage, StoredMessage, weight

#: A digest of the credential of who asks, so that no credential is kept; None is who has none.
Caller: TypeAlias = bytes | None
#: Who asks, and what is asked.
Question: TypeAlias = tuple[Caller, Hashable]
#: What an answer is counted as beside its messages.
_ENTRY_BYTES = 500


class LastAnswers:
    """The last answer to each question, for a bounded time and in bounded memory; the oldest leave first."""

    def __init__(self, *, seconds: float, max_bytes: int) -> None:
        """An answer is repeated until it is `seconds` old."""
        self.bytes = 0
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._answers: OrderedDict[Question, tuple[float, int, StoredMessage | Greeting | Page]] = OrderedDict()
        self._of: dict[Caller, set[Question]] = {}

    def keep(self, question: Question, answer: StoredMessage | Greeting | Page) -> None:
        """Remember what the core answered just now. What was stale there already is not worth it."""
        if not self._seconds or isinstance(answer, StaleMessage | StaleGreeting | StalePage):
            return
        self.forget(question)
        size = _ENTRY_BYTES + _weight(answer)
        self._of.setdefault(question[0], set()).add(question)
        self._answers[question] = asyncio.get_running_loop().time(), size, answer
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.forget(next(iter(self._answers)))

    def data(self, question: Question) -> StaleMessage | StaleGreeting | None:
        """The last answer of `get data`, marked as stale; None if there is none that is young enough."""
        found, age = self._find(question)
        if isinstance(found, StoredMessage):
            return StaleMessage(found.topic, found.offset, found.time, found.message, age)
        return StaleGreeting(found.topic, found.text, age) if isinstance(found, Greeting) else None

    def page(self, question: Question) -> StalePage | None:
        """The same for a page."""
        found, age = self._find(question)
        return StalePage(found.messages, found.next, age) if isinstance(found, Page) else None

    def forget_all(self, caller: Caller) -> None:
        """Repeat nothing to this caller that it was told before."""
        for question in tuple(self._of.get(caller, ())):
            self.forget(question)

    def forget(self, question: Question) -> None:
        """Do not repeat the answer to this one."""
        _, size, answer = self._answers.pop(question, (0.0, 0, None))
        if answer is None:
            return
        self.bytes -= size
        of_caller = self._of[question[0]]
        of_caller.discard(question)
        if not of_caller:
            del self._of[question[0]]

    def _find(self, question: Question) -> tuple[StoredMessage | Greeting | Page | None, float]:
        at, _, answer = self._answers.get(question, (0.0, 0, None))
        age = asyncio.get_running_loop().time() - at
        return (answer, age) if age < self._seconds else (None, age)


def _weight(answer: StoredMessage | Greeting | Page) -> int:
    if isinstance(answer, StoredMessage):
        return weight(answer.message)
    if isinstance(answer, Greeting):
        return len(answer.text)
    return sum(weight(stored.message) for stored in answer.messages)
