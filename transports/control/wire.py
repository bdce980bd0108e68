"""What is said through the socket: a line of JSON for each request, and one for its answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from core.errors import Internal, TriviumError, of_code

#: In the data directory.
NAME = "admin.sock"
REQUEST_BYTES = 4096
#: A page of a thousand keys takes a quarter of this.
ANSWER_BYTES = 1024 * 1024
#: unix(7): 108 bytes with the zero that ends them.
_LONGEST_NAME = 107


class CreateKey(Struct, frozen=True, tag_field="operation", tag="create_key", forbid_unknown_fields=True):
    principal: str
    days: float | None = None


class ListKeys(Struct, frozen=True, tag_field="operation", tag="list_keys", forbid_unknown_fields=True):
    after: str = ""
    limit: int | None = None


class RevokeKey(Struct, frozen=True, tag_field="operation", tag="revoke_key", forbid_unknown_fields=True):
    id: str


class Refusal(Struct, frozen=True):
    """An error of Trivium, as it is thrown again at the other side."""

    code: str
    detail: str
    field: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(cls, error: TriviumError) -> "Refusal":
        return cls(error.code, error.detail, error.field, error.retry_after)

    def error(self) -> TriviumError:
        return (of_code(self.code) or Internal)(self.detail, field=self.field, retry_after=self.retry_after)


class Answer(Struct, frozen=True):
    """Either what the operation answers, or why it does not."""

    result: Raw = Raw(b"null")
    error: Refusal | None = None


encode = msgspec.json.Encoder().encode


@contextmanager
def address(folder: Path) -> Iterator[str]:
    """What the socket of `folder` can be bound or connected to by: a longer path goes through the open folder."""
    path = str(folder / NAME)
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        yield path
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{NAME}"
    finally:
        os.close(opened)
