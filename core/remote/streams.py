"""Reading that goes on where it was when an address is lost: by cursor, at the next address."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from core import deadlines
from core.closing import Closing
from core.errors import DeadlineExceeded, Overloaded, Unavailable, let_go
from core.messages import Page
from core.ports import MessageService
from core.remote.addresses import Address, Addresses
from core.remote.attempts import Attempts, for_callers
from core.remote.links import Unreachable
from core.remote.retries import pause

#: A stream that was lost comes back within so many seconds for each that is open: a crowd spreads out.
_SPREAD_SECONDS = 0.002
_Lost: TypeAlias = Unreachable | Unavailable | Overloaded
#: After these a stream goes on elsewhere.
_LOST = (Unreachable, Unavailable, Overloaded)


class _Opened(NamedTuple):
    """A stream at an address; the first page was taken from `pages`."""

    address: Address
    pages: AsyncGenerator[Page]
    first: Page


#: Opens the stream at an address, after a cursor.
_At: TypeAlias = Callable[[Address, int | None], Awaitable[_Opened]]


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
            at = partial(self._open, topic, authorization)
            begun, failures, cursor = False, 0, 0
            opened: _Opened | None = await self._begin(at, after)
            while opened is not None:
                address, pages = opened.address, opened.pages
                page: Page | None = opened.first
                error: _Lost | None = None  # with none that core is stopping
                async with aclosing(pages):
                    try:
                        while page is not None:
                            if page.messages or not begun:
                                yield page
                            begun, cursor = True, page.next
                            failures = 0 if page.messages else failures
                            page = await self._next(address, pages)
                    except _LOST as lost:
                        error = let_go(lost)  # which would hold this frame, and so the page with it
                failures += 1
                opened = await self._resume(at, cursor, address, failures, error)

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

    async def _begin(self, at: _At, after: int | None) -> _Opened:
        """First contact, at one address after another while there is budget; raises what callers are told."""
        address, failures = self._addresses.after(None), 0
        while address is not None and not self._draining.begun:
            try:
                return await at(address, after)
            except _LOST as error:
                failures += 1
                is_last = failures >= len(self._addresses.all) or not self._attempts.budget.spend()
                if is_last and not self._draining.begun:
                    raise for_callers(error) from error
            address = self._addresses.after(address)
        raise Unavailable("the service is ending") if self._draining.begun else for_callers(None)

    async def _resume(self, at: _At, cursor: int, lost: Address, failures: int, error: _Lost | None) -> _Opened | None:
        """Go on after `lost` at the next address that answers, after a pause, whenever that is; None at the end."""
        while True:
            await self._rest(failures, (error.retry_after or 0.0) if isinstance(error, Overloaded) else 0.0)
            while (address := self._addresses.after(lost)) is None and not self._draining.begun:
                await self._some_address()
            if address is None or self._draining.begun:
                return None
            try:
                return await at(address, cursor)
            except _LOST as again:
                lost, failures, error = address, failures + 1, let_go(again)

    async def _open(self, topic: str, authorization: str | None, address: Address, cursor: int | None) -> _Opened:
        """A stream at `address` and its first page, which comes at once, or the address is no good."""
        pages = address.link.on_behalf_of(authorization).follow(topic, cursor)
        try:
            async with deadlines.until(asyncio.get_running_loop().time() + self._addresses.patience):
                page = await self._next(address, pages)
            if page is None:
                raise Unavailable("the stream ended before it had begun")
        except DeadlineExceeded as error:
            await pages.aclose()
            address.breaker.failure("no answer in time")
            raise Unreachable("no answer in time") from error
        except BaseException:
            await pages.aclose()
            raise
        address.breaker.success()
        return _Opened(address, pages, page)

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
