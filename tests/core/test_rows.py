"""Messages as rows, and back."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from core.messages import Message, StoredMessage, new_message, weight
from core.stores import rows

NOW = datetime(2026, 1, 31, 12, microsecond=1, tzinfo=UTC)
NAMES = st.sampled_from(["", "a", "ä", "urn:x"])
MESSAGES = st.builds(
    Message,
    id=st.text(max_size=5),
    source=NAMES,
    type=NAMES,
    data=st.binary(max_size=5),
    content_type=st.sampled_from(["", "text/plain"]),
    subject=st.none() | NAMES,
    time=st.none() | st.datetimes(timezones=st.just(UTC)),
    key=st.none() | NAMES,
    attributes=st.dictionaries(NAMES, st.text(max_size=5), max_size=2),
)


def rows_of(messages: list[Message]) -> Iterator[rows.Row]:
    """The rows of `STORED` that messages become at the offsets from 7 on."""
    values: list[object] = []
    rows.append_to(values, 3, 7, rows.to_micros(NOW), messages)
    columns = rows.COLUMNS.split(", ")
    places = [columns.index(column) for column in rows.STORED.split(", ")]
    for at in range(0, len(values), len(columns)):
        yield tuple(values[at + place] for place in places)


@given(st.lists(MESSAGES, max_size=6), st.integers(0, 4000))
def test_a_page_holds_what_was_stored_up_to_its_bytes(messages: list[Message], max_bytes: int) -> None:
    """Whatever neighbours share, each message is the one that was stored, and is weighed as it is alone."""
    sums = accumulate(map(weight, messages))
    count = sum(size <= max_bytes or not index for index, size in enumerate(sums))
    expected = [
        StoredMessage("t", offset, message.time or NOW, message) for offset, message in enumerate(messages[:count], 7)
    ]
    assert list(rows.page_of("t", rows_of(messages), max_bytes)) == expected


def test_what_messages_share_is_in_memory_once() -> None:
    """Also between pages, and where messages of several kinds take turns."""
    messages = [new_message(b"", source=f"urn:{number % 2}") for number in range(4)]
    assert messages[0].source is not messages[2].source
    first, _, second, _ = rows.page_of("t", rows_of(messages[:4]), 10**6)
    (later,) = rows.page_of("t", rows_of(messages[2:]), 0)
    for one in (second, later):
        assert one.message.source is first.message.source
        assert one.time is first.time
