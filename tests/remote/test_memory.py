"""Last answers."""

from datetime import UTC, datetime

from core.messages import Greeting, Page, StaleGreeting, StaleMessage, StalePage, StoredMessage, new_message
from core.remote.memory import LastAnswers

STORED = StoredMessage("t", 1, datetime(2026, 1, 31, tzinfo=UTC), new_message(b"x"))


async def test_an_answer_is_repeated_with_its_age() -> None:
    """Whatever kind it is; another question has none."""
    answers = LastAnswers(seconds=60, max_bytes=10_000)
    answers.keep((None, "data"), STORED)
    answers.keep((None, "greeting"), Greeting("t", "hello"))
    answers.keep((None, "page"), Page((STORED,), 1))
    data, greeting, page = answers.data((None, "data")), answers.data((None, "greeting")), answers.page((None, "page"))
    assert isinstance(data, StaleMessage)
    assert (data.topic, data.offset, data.time, data.message) == ("t", 1, STORED.time, STORED.message)
    assert isinstance(greeting, StaleGreeting)
    assert (greeting.topic, greeting.text) == ("t", "hello")
    assert page is not None
    assert (page.messages, page.next) == ((STORED,), 1)
    assert 0 <= data.age < 60
    assert answers.data((None, "other")) is None
    assert answers.page((None, "other")) is None


async def test_an_old_answer_is_none() -> None:
    """Past its bound nothing is repeated; a bound of 0 keeps nothing at all."""
    answers = LastAnswers(seconds=1e-9, max_bytes=10_000)
    answers.keep((None, "data"), STORED)
    assert answers.data((None, "data")) is None
    answers = LastAnswers(seconds=0, max_bytes=10_000)
    answers.keep((None, "data"), STORED)
    assert answers.bytes == 0


async def test_memory_is_bounded() -> None:
    """The oldest leave; a repeated question takes its place once."""
    answers = LastAnswers(seconds=60, max_bytes=10_000)
    for number in range(100):
        answers.keep((None, number), STORED)
        answers.keep((None, number), STORED)
    assert answers.bytes <= 10_000
    assert answers.data((None, 99)) is not None
    assert answers.data((None, 0)) is None


async def test_what_is_stale_is_not_kept() -> None:
    """An edge of an edge would make it young again."""
    answers = LastAnswers(seconds=60, max_bytes=10_000)
    answers.keep((None, "page"), StalePage((), 0, 59.0))
    assert answers.page((None, "page")) is None


async def test_what_a_caller_was_told_can_be_forgotten() -> None:
    """All of it, and nothing that others were told."""
    answers = LastAnswers(seconds=60, max_bytes=10_000)
    answers.keep((b"anna", "data"), STORED)
    answers.keep((b"anna", "page"), Page((STORED,), 1))
    answers.keep((b"ben", "data"), STORED)
    answers.forget_all(b"anna")
    answers.forget_all(b"nobody")
    assert answers.data((b"anna", "data")) is None
    assert answers.page((b"anna", "page")) is None
    assert answers.data((b"ben", "data")) is not None
    answers.forget_all(b"ben")
    assert answers.bytes == 0
