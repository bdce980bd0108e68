"""What the errors of the core mean for a message of the inbox."""

from collections.abc import Mapping
from enum import Enum

from core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PermissionDenied,
    TooLarge,
    TriviumError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)


class Fate(Enum):
    """What an error means for a message of the inbox."""

    DEAD_LETTER = "it can never be stored"
    WAIT = "it stays unacknowledged, and those behind it wait with it, until this has passed"
    FEW_ATTEMPTS = "it is tried a few times more, alone, while those behind it wait; then it is a dead letter"


FATES: Mapping[type[TriviumError], Fate] = {
    InvalidArgument: Fate.DEAD_LETTER,
    Unauthenticated: Fate.DEAD_LETTER,
    PermissionDenied: Fate.DEAD_LETTER,
    NotFound: Fate.DEAD_LETTER,
    MethodNotAllowed: Fate.DEAD_LETTER,
    Conflict: Fate.DEAD_LETTER,
    TooLarge: Fate.DEAD_LETTER,
    UnsupportedMediaType: Fate.DEAD_LETTER,
    Overloaded: Fate.WAIT,
    Unavailable: Fate.WAIT,
    DeadlineExceeded: Fate.WAIT,
    Internal: Fate.FEW_ATTEMPTS,
}
