"""What is hidden in a line, and what it costs to look."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.redaction import HIDDEN, Redactor

#: The password of a URL as one would say it: after a scheme, a name and a colon, before an @.
PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@\"']*:)[^\s/\"']*@", re.IGNORECASE)


@given(
    st.lists(st.sampled_from(["amqps", "x", "1.", "://", "/", ":", "@", " ", '"', "é", "pass"]), max_size=20).map(
        "".join
    )
)
@example("broker=1.amqp://user:pass@host/ and amqp://:a@b:c@d")
def test_no_password_of_a_url_is_left(text: str) -> None:
    """Whatever stands before it."""
    told = Redactor(()).line(text)
    assert PASSWORD.sub(rf"\1{HIDDEN}@", told) == told


@pytest.mark.parametrize("text", ["a." * 200_000 + "://", "a://b:" * 70_000, "://" + ":" * 400_000, "://@:" * 80_000])
def test_a_long_line_is_looked_at_once(text: str) -> None:
    """What costs the square of its length would take minutes here, on the loop."""
    Redactor(()).line(text)
