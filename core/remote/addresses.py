"""The addresses of a core in order of preference, and what is known of each."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from core.closing import Closing
from core.health import Health, State
from core.remote.breaker import Breaker
from core.remote.links import Link, Unreachable
from core.remote.retries import pause

#: A quiet address is probed after so many seconds, so that `/readyz` is true without traffic.
_QUIET_SECONDS = 5.0
#: Longest pause between probes of an address that does not answer.
_PROBE_SECONDS = 1.0
#: The start is not held up longer by addresses that do not even refuse.
_START_SECONDS = 1.0


class Address:
    """One way to the core: its name as configured (`grpc://core:50051`), its link and its breaker."""

    def __init__(self, name: str, link: Link, changed: Callable[[], None]) -> None:
        self.name = name
        self.link = link
        self.judged = asyncio.Event()
        #: Begins for what waits there, perhaps for ever, when another address does answer.
        self.leaving = Closing()
        self._clock = asyncio.get_running_loop().time
        self._opened = asyncio.Event()
        self._tell = changed
        self.breaker = Breaker(self._clock, self._changed)

    def leave(self) -> None:
        """End what waits there: another address does answer."""
        leaving, self.leaving = self.leaving, Closing()  # another for who comes back
        leaving.begin()

    async def watch(self, patience: float) -> None:
        """Probe it while it is open or quiet; each probe has `patience` seconds.

        One that answers probes and fails calls is given longer and longer pauses too.
        """
        failures = 0
        while True:
            began = self._clock()
            is_well = await self._probe(patience)
            self.judged.set()
            if is_well and not await self._opens_before_it_is_quiet():
                failures = 0
                continue
            failures = failures + 1 if self._clock() < began + _QUIET_SECONDS else 1
            await asyncio.sleep(_PROBE_SECONDS / 10 + pause(failures + 1, longest=_PROBE_SECONDS))

    async def _opens_before_it_is_quiet(self) -> bool:
        while True:
            try:
                async with asyncio.timeout_at(self.breaker.last_success + _QUIET_SECONDS):
                    await self._opened.wait()
                    return True
            except TimeoutError:
                if self._clock() >= self.breaker.last_success + _QUIET_SECONDS:
                    return False

    async def _probe(self, patience: float) -> bool:
        if not self.breaker.closed:
            self.breaker.half_open()
        try:
            async with asyncio.timeout(patience):
                await self.link.probe()
        except Unreachable as error:
            self.breaker.open(error.detail)
            return False
        except TimeoutError:
            self.breaker.open(f"no answer within {patience:g} s")
            return False
        self.breaker.close()
        return True

    def _changed(self) -> None:
        if self.breaker.closed:
            self._opened.clear()
        else:
            self._opened.set()
        self._tell()


class Addresses:
    """Opens and watches the links. Part of the process: entered before the doors, left after them."""

    def __init__(self, links: Mapping[str, Link], health: Health, *, patience: float) -> None:
        """`links` by name, in order of preference; an attempt or a probe has `patience` seconds."""
        self.patience = patience
        self.all: Sequence[Address] = ()
        self._links = links
        self._health = health
        self._stack = AsyncExitStack()
        self._watches: list[asyncio.Task[None]] = []
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Returns once it is known of an address that it answers, or of all that they do not."""
        async with AsyncExitStack() as stack:
            for link in self._links.values():
                await stack.enter_async_context(link)
            self.all = [Address(name, link, self._tell) for name, link in self._links.items()]
            self._watches = [
                asyncio.create_task(address.watch(self.patience), name=f"watch {address.name}") for address in self.all
            ]
            stack.push_async_callback(self._stop_watching)
            await self._judge()
            self._stack = stack.pop_all()
        self._tell()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def wait(self) -> None:
        """Never returns; raises what a watch died of."""
        done, _ = await asyncio.wait(self._watches, return_when=asyncio.FIRST_COMPLETED)
        for watch in done:
            watch.result()

    def usable(self) -> Iterator[Address]:
        """Those whose breaker is closed, the preferred first."""
        return (address for address in self.all if address.breaker.closed)

    def after(self, lost: Address | None) -> Address | None:
        """The usable one that follows `lost`, in turn; the preferred one to begin with."""
        place = -1 if lost is None else self.all.index(lost)
        turn = [*self.all[place + 1 :], *self.all[: place + 1]]
        return next((address for address in turn if address.breaker.closed), None)

    async def some_usable(self) -> None:
        """Return once there is one."""
        while not any(address.breaker.closed for address in self.all):
            self._closed.clear()
            await self._closed.wait()

    async def _judge(self) -> None:
        """Give the addresses time to answer for the first time."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                for address in self.all:
                    await address.judged.wait()
                    if address.breaker.closed:
                        break
        except TimeoutError:
            for address in self.all:
                if not address.judged.is_set():
                    address.breaker.open("no answer yet")

    async def _stop_watching(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.wait(self._watches)

    def _tell(self) -> None:
        """What is known, as checks of the service."""
        closed = [address for address in self.all if address.breaker.closed]
        if closed:
            self._closed.set()
        state = State.FAILED if not closed else State.OK if len(closed) == len(self.all) else State.DEGRADED
        for address in self.all:
            breaker = address.breaker
            if closed and not breaker.closed:
                address.leave()
            detail = breaker.state.value if breaker.closed else f"{breaker.state.value}: {breaker.reason}"
            self._health.report(f"core {address.name}", State.OK if breaker.closed else State.DEGRADED, detail)
        self._health.report("core", state, f"{len(closed)} of {len(self.all)} addresses answer")
