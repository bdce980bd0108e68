"""What a transport gives to reach a core at one address."""

from types import TracebackType
from typing import Protocol, Self

from core.errors import Internal, TriviumError, of_code
from core.ports import MessageService


class Unreachable(Exception):
    """No Trivium answered: refused, cut off, or something else is there. The outcome is unknown.

    It does not leave `core.remote`: callers get `Unavailable`.
    """

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class Link(Protocol):
    """The way to one address. Entering opens it without waiting for the other side; leaving closes it.

    It makes each attempt once, within `core.deadlines`, and tells the other side how long that is. Its services
    raise what the core answered, and `Unreachable` where it did not. Their `publish` does not keep the order of
    calls: `core.remote.lanes` does.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def on_behalf_of(self, authorization: str | None) -> MessageService:
        """The core as the bearer of a credential sees it; cheap, and sharing the connections."""

    async def probe(self) -> None:
        """Return once a Trivium answered, whatever it said; `Unreachable` if none does."""


def told(code: str, detail: str, *, field: str | None = None, retry_after: float | None = None) -> TriviumError:
    """The error that a core answered with. A code of a newer core is `Internal`."""
    kind = of_code(code)
    if kind is None:
        return Internal(f"the core answered {code!r}: {detail}")
    return kind(detail, field=field, retry_after=retry_after)
