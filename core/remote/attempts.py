"""One call, made at one address after another until somebody answers or the time is up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from core import deadlines
from core.errors import DeadlineExceeded, Overloaded, TriviumError, Unavailable, let_go
from core.ports import MessageService
from core.remote.addresses import Address, Addresses
from core.remote.links import Unreachable
from core.remote.retries import RetryBudget, pause

T = TypeVar("T")

#: What is asked of the core, wherever it is.
Question = Callable[[MessageService], Awaitable[T]]
Failure: TypeAlias = TriviumError | Unreachable
#: What another attempt may mend. Anything else is the core's answer.
_PASSING = (Unreachable, Unavailable, Overloaded)

#: What callers are told who can't be told better.
_RETRY_AFTER_SECONDS = 1.0
#: The timers of a transport may be ahead of the loop's by so much.
_EARLY_SECONDS = 0.1


class Attempts:
    """Calls for everybody: one budget of retries, shared with hedged reads, and one where the core is overloaded.

    The latter is apart because a caller may be `overloaded` alone, past its own rate: others need their retries.
    A call goes to the first address whose breaker is closed, and on to the next while there is budget and time.
    Everything asked here may be asked twice: reads, and publishes of messages that have their ids.
    """

    def __init__(self, addresses: Addresses, *, seconds: float, hedge_seconds: float) -> None:
        """A call has `seconds` where nobody said how long; it is hedged after `hedge_seconds` unless that is 0."""
        self.budget = RetryBudget()
        self._budget_of_overload = RetryBudget()
        self._addresses = addresses
        self._seconds = seconds
        self._hedge_seconds = hedge_seconds

    def deadline(self) -> float:
        """When the caller of now gives up, by the clock of the loop."""
        return deadlines.deadline() or asyncio.get_running_loop().time() + self._seconds

    async def ask(
        self,
        question: Question[T],
        authorization: str | None,
        *,
        until: float,
        waits_until: float = 0,
        hedge: bool = False,
    ) -> T:
        """The core's answer, which it may wait with until `waits_until`; what it raised, or `Unavailable`.

        With `hedge` a slow first attempt is not waited for alone, if that is configured.
        """
        self.budget.earn()
        self._budget_of_overload.earn()
        last: Failure | None = None
        rounds = 0
        while True:
            asked: list[Address] = []
            for address in self._addresses.usable():
                if address in asked:
                    continue
                if asked and not self.budget.spend():
                    raise for_callers(last)
                asked.append(address)
                if hedge and last is None and self._hedge_seconds:
                    answer = self._hedged(asked, question, authorization, until=until)
                else:
                    answer = self.attempt(address, question, authorization, until=until, waits_until=waits_until)
                try:
                    return await (_unless_left(address, answer) if waits_until else answer)
                except _PASSING as error:
                    last = let_go(error)  # which would hold this frame, and so the messages with it
                    if isinstance(error, Overloaded):  # the other addresses are of the same core
                        break
            if last is None or not asked:
                raise for_callers(last)
            rounds += 1
            await self._rest(rounds, last, until)

    async def attempt(
        self,
        address: Address,
        question: Question[T],
        authorization: str | None,
        *,
        until: float,
        waits_until: float = 0,
    ) -> T:
        """Ask once, and tell the breaker. Raises what the core answered, `Unreachable`, or `DeadlineExceeded`."""
        clock = asyncio.get_running_loop().time
        patience = max(clock(), waits_until) + self._addresses.patience
        is_in_a_hurry = min(until, deadlines.deadline() or until) < patience
        try:
            async with deadlines.until(min(until, patience)):
                answer = await question(address.link.on_behalf_of(authorization))
        except Unreachable as error:
            address.breaker.failure(error.detail)
            raise
        except DeadlineExceeded as error:
            if is_in_a_hurry or clock() < patience - _EARLY_SECONDS:  # the latter: the core says so
                raise
            address.breaker.failure("no answer in time")
            raise Unreachable("no answer in time") from error
        except TriviumError:
            address.breaker.success()
            raise
        address.breaker.success()
        return answer

    async def _hedged(
        self, asked: list[Address], question: Question[T], authorization: str | None, *, until: float
    ) -> T:
        """Ask the last of `asked`, and if the answer takes long another address, which joins it; the first counts."""

        def begin() -> asyncio.Task[T]:
            return asyncio.create_task(
                self.attempt(asked[-1], question, authorization, until=until), name="hedged read"
            )

        tasks = [begin()]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._hedge_seconds)
            other = next((one for one in self._addresses.usable() if one not in asked), None)
            if not done and other is not None and self.budget.spend():
                asked.append(other)
                tasks.append(begin())
            return await _first_answer(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                task.cancelled() or task.exception()  # which else would count as overlooked

    async def _rest(self, rounds: int, last: Failure, until: float) -> None:
        """Pause after a round; raises if there is no next one, for want of time or of budget."""
        seconds = max(pause(rounds), last.retry_after or 0)
        budget = self._budget_of_overload if isinstance(last, Overloaded) else self.budget
        if asyncio.get_running_loop().time() + seconds >= until or not budget.spend():
            raise for_callers(last)
        await asyncio.sleep(seconds)


async def _unless_left(address: Address, answer: Awaitable[T]) -> T:
    """The answer, which is waited for in vain if the address has gone without a word; others may have noticed."""
    async with address.leaving.until():
        return await answer
    raise Unreachable("left for another address")


async def _first_answer(tasks: Sequence[asyncio.Task[T]]) -> T:
    """Raises what the last of them raised, if none has an answer."""
    last: Failure = Unreachable("nobody was asked")
    for finished in asyncio.as_completed(tasks):
        try:
            return await finished
        except _PASSING as error:
            last = error
    raise last


def for_callers(error: Failure | None) -> TriviumError:
    """What a caller is told of the last failure: a new error, which no frame holds that it goes through."""
    if error is None or isinstance(error, Unreachable):
        return Unavailable(
            "the core can't be reached", retry_after=(error and error.retry_after) or _RETRY_AFTER_SECONDS
        )
    return error.bare()
