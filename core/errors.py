"""Every error that Trivium answers with; each door has one table from `code` to its wire.

TriviumError
├── InvalidArgument       a value breaks a rule; `field` names it
├── Unauthenticated       who asks is not known: no credential, or none that holds
├── PermissionDenied      who asks is known, and may not do this
├── NotFound              a single message, path or RPC that does not exist
├── MethodNotAllowed      the resource exists, the operation on it does not
├── Conflict              an identity was published before with other content
├── TooLarge              a size limit is passed; `field` names what is too large
├── UnsupportedMediaType  a content type or encoding that the door does not take
├── Overloaded            a bound is reached; repeat after `retry_after` seconds
├── Unavailable           a part is away; repeat after `retry_after` seconds, the outcome is unknown
├── DeadlineExceeded      it took too long, the outcome is unknown
└── Internal              a defect of Trivium; the outcome is unknown, the log has the cause
"""

from typing import ClassVar, Self, TypeVar

E = TypeVar("E", bound=BaseException)


class TriviumError(Exception):
    """The root. `code` is stable and the same at every door; `detail` is for people.

    `field` names the offending input as the caller knows it: `id`, `after`, `messages[3].time`.
    """

    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after

    def within(self, path: str) -> Self:
        """The same error, its field seen from outside: `id` within `messages[3]` is `messages[3].id`."""
        field = f"{path}.{self.field}" if self.field else path
        return type(self)(self.detail, field=field, retry_after=self.retry_after)

    def bare(self) -> Self:
        """The same error without its traceback, which keeps all that the functions there had in their hands.

        For errors that are kept by what they had there: such a circle lasts until a collection, which comes seldom.
        """
        return type(self)(self.detail, field=self.field, retry_after=self.retry_after)

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}" if self.field else self.detail


class InvalidArgument(TriviumError):
    code = "invalid_argument"
    title = "Invalid argument"


class Unauthenticated(TriviumError):
    code = "unauthenticated"
    title = "Unauthenticated"


class PermissionDenied(TriviumError):
    code = "permission_denied"
    title = "Permission denied"


class NotFound(TriviumError):
    code = "not_found"
    title = "Not found"


class MethodNotAllowed(TriviumError):
    code = "method_not_allowed"
    title = "Method not allowed"


class Conflict(TriviumError):
    code = "conflict"
    title = "Conflict"


class TooLarge(TriviumError):
    code = "too_large"
    title = "Too large"


class UnsupportedMediaType(TriviumError):
    code = "unsupported_media_type"
    title = "Unsupported media type"


class Overloaded(TriviumError):
    code = "overloaded"
    title = "Overloaded"

    def __init__(self, detail: str, *, field: str | None = None, retry_after: float | None = 1.0) -> None:
        super().__init__(detail, field=field, retry_after=retry_after)


class Unavailable(TriviumError):
    code = "unavailable"
    title = "Unavailable"

    def __init__(self, detail: str, *, field: str | None = None, retry_after: float | None = 1.0) -> None:
        super().__init__(detail, field=field, retry_after=retry_after)


class DeadlineExceeded(TriviumError):
    code = "deadline_exceeded"
    title = "Deadline exceeded"


class Internal(TriviumError):
    code = "internal"
    title = "Internal error"


def of_code(code: str) -> type[TriviumError] | None:
    """The error that another Trivium told; None for a code that only a newer one has."""
    return next((kind for kind in TriviumError.__subclasses__() if kind.code == code), None)


def let_go(error: E) -> E:
    """The same error without its traceback, nor those of its causes.

    For errors that stay in the hands of who caught them, or of a context that raised another in their place. From
    Python 3.12 on the frame of a coroutine or generator that failed keeps its caller's: such a circle lasts until a
    collection, which comes seldom.
    """
    one: BaseException | None = error
    while one is not None and one.__traceback__ is not None:
        one.__traceback__ = None
        one = one.__cause__
    return error
