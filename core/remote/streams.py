"""Reading that goes on where it was when an address is lost: by cursor, at the next address."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from core import deadlines
from core.closing import Closing
from core.errors import DeadlineExceeded, Overloaded, Unavailable
from core.messages import Page
from core.ports import MessageService
from core.remote.addresses import Address, Addresses
from core.remote.attempts import Attempts, for_callers
from core.remote.links import Unreachable
from core.remote.retries import pause

#: A stream that was lost comes back within so many seconds for each that is open: a crowd spreads out.
_SPREAD_SECONDS = 0.002


class Streams:
    """Followers and waiting reads of an edge. Their number is bounded, and `drain` ends them.

    Once begun they wait for an address that answers, instead of trying: nothing is asked of a core that is away.
    """

    def __init__(self, addresses: Addresses, attempts: Attempts, *, most: int) -> None:
        self.open = 0
        self._addresses = addresses
        self._attempts = attempts
        self._most = most
        self._draining = Closing()

    def drain(self) -> None:
        """End all of them, cleanly."""
        self._draining.begin()

    async def follow(self, topic: str, after: int | None, authorization: str | None) -> AsyncGenerator[Page]:
        """As `MessageService.follow`. It fails if there is no core to begin with; later it waits for one."""
        with self._place():
            self._attempts.budget.earn()
            cursor, begun, failures = after, False, 0
            lost: Address | None = None
            while not self._draining.begun:
                address = self._addresses.after(lost)
                if address is None:
                    if not begun:
                        raise for_callers(None)
                    await self._some_address()
                    continue
                lost = address
                try:
                    async with aclosing(address.link.on_behalf_of(authorization).follow(topic, cursor)) as pages:
                        page = await self._first(address, pages)
                        while page is not None:
                            if page.messages or not begun:
                                yield page
                            cursor, begun = page.next, True
                            failures = 0 if page.messages else failures
                            page = await self._next(address, pages)
                    retry_after = 0.0  # that core is stopping
                except (Unreachable, Unavailable, Overloaded) as error:
                    if not begun and (failures + 1 >= len(self._addresses.all) or not self._attempts.budget.spend()):
                        raise for_callers(error) from error
                    retry_after = (error.retry_after or 0.0) if isinstance(error, Overloaded) else 0.0
                failures += 1
                if begun:
                    await self._rest(failures, retry_after)
            if not begun:
                raise Unavailable("the service is ending")

    async def wait_for_page(
        self, topic: str, *, after: int, limit: int | None, wait: float, authorization: str | None
    ) -> Page:
        """As `MessageService.read_messages` with `wait`: goes on waiting at the next address when one is lost."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait

        async def question(core: MessageService) -> Page:
            return await core.read_messages(topic, after=after, limit=limit, wait=max(0.0, until - clock()))

        may_resume = self._addresses.after(None) is not None
        failures = 0
        with self._place():
            while not self._draining.begun:
                deadline = self._attempts.deadline() + max(0.0, until - clock())
                try:
                    async with self._draining.until():
                        return await self._attempts.ask(question, authorization, until=deadline, waits_until=until)
                except Unavailable:
                    if clock() >= until or not may_resume:
                        raise
                failures += 1
                await self._rest(failures, 0.0)
                await self._some_address(until)
            return Page((), after)

    async def _first(self, address: Address, pages: AsyncGenerator[Page]) -> Page | None:
        """The first page of a stream, which comes at once, or its address is no good."""
        patience = asyncio.get_running_loop().time() + self._addresses.patience
        try:
            async with deadlines.until(patience):
                page = await self._next(address, pages)
        except DeadlineExceeded as error:
            address.breaker.failure("no answer in time")
            raise Unreachable("no answer in time") from error
        address.breaker.success()
        return page

    async def _next(self, address: Address, pages: AsyncGenerator[Page]) -> Page | None:
        """The next page, None at the end. A lost address is told to its breaker, and one that others lost is left."""
        try:
            async with self._draining.until(), address.leaving.until():
                return await anext(pages, None)
        except Unreachable as error:
            address.breaker.failure(error.detail)
            raise
        if not self._draining.begun:
            raise Unreachable("left for another address")
        return None

    async def _rest(self, failures: int, retry_after: float) -> None:
        """Pause before coming back, each stream for another time."""
        spread = random.uniform(0, self.open * _SPREAD_SECONDS)  # noqa: S311 - no secret
        async with self._draining.until():
            await asyncio.sleep(max(retry_after, pause(failures)) + spread)

    async def _some_address(self, until: float | None = None) -> None:
        """Return once an address answers, or it is too late."""
        async with self._draining.until(until):
            await self._addresses.some_usable()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among those who wait; `Overloaded` if there is none."""
        if self.open >= self._most:
            raise Overloaded(f"{self.open} streams and waiting reads are open, which is the most", retry_after=5.0)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
