"""The tree of errors."""

import pytest

from core import errors
from core.errors import Conflict, Overloaded, TooLarge, TriviumError, Unavailable

EVERY = TriviumError.__subclasses__()


def test_codes_are_those_of_the_contract() -> None:
    """A code is an interface: it is neither renamed nor dropped."""
    assert {error.code for error in EVERY} == {
        "invalid_argument",
        "unauthenticated",
        "permission_denied",
        "not_found",
        "method_not_allowed",
        "conflict",
        "too_large",
        "unsupported_media_type",
        "overloaded",
        "unavailable",
        "deadline_exceeded",
        "internal",
    }


@pytest.mark.parametrize("error", EVERY)
def test_each_error_has_a_title_and_stands_in_the_tree_on_top(error: type[TriviumError]) -> None:
    """The first lines of the module are the list that people read."""
    assert error.title
    assert f"── {error.__name__} " in (errors.__doc__ or "")


@pytest.mark.parametrize("error", EVERY)
def test_within_keeps_the_kind_and_what_it_says(error: type[TriviumError]) -> None:
    """An error of a batch is the error of its message at another place."""
    inner = error("is wrong", field="time", retry_after=2.5)
    outer = inner.within("messages[3]")
    assert type(outer) is error
    assert (outer.detail, outer.field, outer.retry_after) == ("is wrong", "messages[3].time", 2.5)


def test_within_names_the_path_alone_where_there_is_no_field() -> None:
    """The whole message is wrong."""
    assert TooLarge("big").within("messages[0]").field == "messages[0]"


def test_they_read_as_field_and_detail() -> None:
    """For people."""
    assert str(Conflict("was there before", field="id")) == "id: was there before"
    assert str(Conflict("was there before")) == "was there before"


def test_only_what_passes_says_when_to_repeat() -> None:
    """`retry_after` has a default where repeating helps."""
    assert Overloaded("full").retry_after == 1.0
    assert Unavailable("away").retry_after == 1.0
    assert Conflict("no").retry_after is None
