"""Every rule at its boundary, and one over it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidArgument, TooLarge
from core.limits import MAX_OFFSET, Limits, check_json, check_offset, check_topic, is_json, is_text, media_type
from core.messages import Message, new_message

LIMITS = Limits()
#: What `new_message(b"", id="i")` counts.
BASE = len("i" + "urn:trivium" + "trivium.message" + "application/octet-stream")


def with_text(field: str, text: str) -> Message:
    fields: dict[str, Any] = {field: text}
    return new_message(b"", **fields)


@pytest.mark.parametrize("topic", ["a", "0", "A.b_c-d", "a" * 200, "a..b"])
def test_names_that_a_topic_can_have(topic: str) -> None:
    """1 to 200 letters, digits, '.', '_', '-', the first a letter or a digit."""
    check_topic(topic)


@pytest.mark.parametrize("topic", ["", ".a", "-a", "_a", "a" * 201, "a b", "a/b", "ä", "a\n", "a\x00", "\u0661", "#"])
def test_names_that_no_topic_has(topic: str) -> None:
    """The error names the field as the caller knows it."""
    with pytest.raises(InvalidArgument, match="1 to 200") as caught:
        check_topic(topic, "after")
    assert caught.value.field == "after"


@pytest.mark.parametrize(("value", "lowest"), [(0, 0), (1, 1), (MAX_OFFSET, 0), (MAX_OFFSET, 1)])
def test_offsets_at_the_bounds(value: int, lowest: int) -> None:
    """A cursor begins at 0, an offset at 1; both end where JSON's integers do."""
    check_offset(value, "offset", lowest=lowest)


@pytest.mark.parametrize(("value", "lowest"), [(-1, 0), (0, 1), (MAX_OFFSET + 1, 0), (2**64, 1)])
def test_offsets_beyond_the_bounds(value: int, lowest: int) -> None:
    """The error names the bounds."""
    with pytest.raises(InvalidArgument, match=str(MAX_OFFSET)) as caught:
        check_offset(value, "offset", lowest=lowest)
    assert caught.value.field == "offset"


@pytest.mark.parametrize("field", ["id", "source", "type", "subject", "key"])
@pytest.mark.parametrize("text", ["x" * 255, "é" * 127])
def test_an_attribute_of_255_bytes(field: str, text: str) -> None:
    """The bound counts bytes of UTF-8."""
    LIMITS.check(with_text(field, text))


@pytest.mark.parametrize("field", ["id", "source", "type", "subject", "key"])
@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, ""])
def test_an_attribute_of_256_bytes_or_none(field: str, text: str) -> None:
    """The error names the attribute."""
    with pytest.raises(InvalidArgument) as caught:
        LIMITS.check(with_text(field, text))
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["id", "source", "type", "content_type", "subject", "key"])
@pytest.mark.parametrize("text", ["a\x00", "a\n", "a\x7f", "a\x9f", "a\ud800", "a\ufdd0", "a\uffff", "a\U0010fffe"])
def test_characters_that_cloudevents_forbids(field: str, text: str) -> None:
    """CloudEvents 1.0.2, type system: no control characters, surrogates or noncharacters."""
    with pytest.raises(InvalidArgument, match="control characters") as caught:
        LIMITS.check(with_text(field, text))
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["a\xa0", "\ufffd", "\ue000", "\U0010fffd", " ", "\u200b", "%00"])
def test_characters_that_are_only_strange(text: str) -> None:
    """What the specification allows, passes."""
    LIMITS.check(new_message(b"", id=text))


@pytest.mark.parametrize("name", ["a", "0", "a" * 20, "dataschema", "traceparent"])
def test_names_of_extensions(name: str) -> None:
    """1 to 20 lower-case letters and digits."""
    LIMITS.check(new_message(b"", attributes={name: ""}))


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "a" * 21, "a-b", "ä", "a\n", "\ud800"),
        *("id", "source", "type", "specversion", "time", "subject", "datacontenttype", "data", "partitionkey"),
        *("topic", "offset"),
    ],
)
def test_names_that_no_extension_has(name: str) -> None:
    """A name with a place of its own is refused too; the error can be printed whatever the name was."""
    with pytest.raises(InvalidArgument, match="extension's name") as caught:
        LIMITS.check(new_message(b"", attributes={name: "x"}))
    assert caught.value.field is not None
    assert caught.value.field.startswith("attributes[")
    caught.value.field.encode()


def test_a_bad_value_of_an_extension_is_named_like_a_bad_name() -> None:
    """`attributes['x']`."""
    with pytest.raises(InvalidArgument) as caught:
        LIMITS.check(new_message(b"", attributes={"x": "\x00"}))
    assert caught.value.field == "attributes['x']"


def test_the_number_of_extensions() -> None:
    """32 pass, 33 do not."""
    names = {f"x{number}": "" for number in range(33)}
    with pytest.raises(InvalidArgument, match="at most 32, not 33"):
        LIMITS.check(new_message(b"", attributes=names))
    names.popitem()
    LIMITS.check(new_message(b"", attributes=names))


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_bytes_of_all_attributes(letter: str) -> None:
    """8 KiB pass, one byte more does not; names count."""
    room = 8192 - BASE - len("x")
    value = letter * (room // len(letter.encode()))
    value += "x" * (room - len(value.encode()))
    assert LIMITS.check(new_message(b"", id="i", attributes={"x": value})) == 8192
    with pytest.raises(TooLarge, match="8193 bytes, at most 8192") as caught:
        LIMITS.check(new_message(b"", id="i", attributes={"x": value + "x"}))
    assert caught.value.field == "attributes"


def test_the_bytes_of_a_message() -> None:
    """1 MiB with attributes passes, one byte more does not."""
    data = b"x" * (1024 * 1024 - BASE)
    assert LIMITS.check(new_message(data, id="i")) == 1024 * 1024
    with pytest.raises(TooLarge, match="1048577 bytes with attributes, at most 1048576") as caught:
        LIMITS.check(new_message(data + b"x", id="i"))
    assert caught.value.field == "data"


def test_the_messages_of_a_batch() -> None:
    """1,000 pass, 1,001 and none do not."""
    one = new_message(b"")
    LIMITS.check_batch([one] * 1000)
    with pytest.raises(TooLarge, match="1001 messages, at most 1000") as caught:
        LIMITS.check_batch([one] * 1001)
    assert caught.value.field == "messages"
    with pytest.raises(InvalidArgument, match="at least one"):
        LIMITS.check_batch([])


def test_the_bytes_of_a_batch() -> None:
    """The bound is exact; it holds for batches, while a single message has its own."""
    limits = Limits(batch_bytes=2 * (BASE + 10))
    message = new_message(b"x" * 10, id="i")
    assert limits.check_batch([message, message]) == 2 * (BASE + 10)
    with pytest.raises(TooLarge, match="in one batch") as caught:
        limits.check_batch([message, new_message(b"x" * 11, id="i")])
    assert caught.value.field == "messages"
    limits.check_batch([new_message(b"x" * 1000)])


def test_a_bad_message_of_a_batch_is_named_by_its_index() -> None:
    """The first one that is bad."""
    good = new_message(b"")
    with pytest.raises(InvalidArgument) as caught:
        LIMITS.check_batch([good, good, new_message(b"", id=""), new_message(b"", type="")])
    assert caught.value.field == "messages[2].id"
    with pytest.raises(TooLarge) as large:
        LIMITS.check_batch([good, new_message(b"x" * 2_000_000)])
    assert large.value.field == "messages[1].data"


@pytest.mark.parametrize("field", ["source", "type", "content_type"])
@pytest.mark.parametrize("text", ["", "x" * 256, "a\n"])
def test_names_that_follow_other_names_are_checked(field: str, text: str) -> None:
    """What messages of a batch share is judged once; what they do not share, is judged of each, and counted."""
    with pytest.raises(InvalidArgument) as caught:
        LIMITS.check_batch([new_message(b""), new_message(b""), with_text(field, text)])
    assert caught.value.field == f"messages[2].{field}"
    messages = [new_message(b"", id="i"), with_text(field, "text/plain"), new_message(b"", id="i")]
    assert LIMITS.check_batch(messages) == sum(map(LIMITS.check, messages))


def test_data_is_judged_by_the_content_type_of_its_message() -> None:
    """Whatever stands beside it in its batch."""
    json, text, plain = (new_message(b"\xff", content_type=kind) for kind in ("application/json", "text/plain", "a/b"))
    assert LIMITS.check_batch([plain, plain]) > 0
    for index, batch in enumerate(([json, plain], [plain, json, plain], [plain, plain, text])):
        with pytest.raises(InvalidArgument, match="UTF-8") as caught:
            LIMITS.check_batch(batch)
        assert caught.value.field == f"messages[{index}].data"


def test_a_message_on_its_own_is_named_without_an_index() -> None:
    """A batch of one is no batch to the caller of a single publish."""
    with pytest.raises(InvalidArgument) as caught:
        LIMITS.check_batch([new_message(b"", id="")])
    assert caught.value.field == "id"


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))])  # noqa: DTZ001
def test_a_time_that_is_not_in_utc(time: datetime) -> None:
    """It would read otherwise from memory than from disk."""
    with pytest.raises(InvalidArgument, match="UTC") as caught:
        LIMITS.check(new_message(b"", time=time))
    assert caught.value.field == "time"


@pytest.mark.parametrize("time", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_every_time_in_utc(time: datetime) -> None:
    """From the year 1 to the year 9999."""
    LIMITS.check(new_message(b"", time=time))


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain;charset=utf-8",
        'text/plain ; charset="utf-8"',
        "a/b;c=d ;e=f",
        "a/b;",
        "a/b; ; ;c=d",
        'a/b;c="a\\"b;"',
        "application/vnd.x+json",
        "*/*",
    ],
)
def test_media_types(content_type: str) -> None:
    """RFC 9110, section 8.3.1."""
    LIMITS.check(new_message(b"", content_type=content_type))


@pytest.mark.parametrize(
    "content_type",
    ["text", "/", "a/", "/b", "a/b c", "a/b;c", "a/b;c=", "a/b;c=d e", 'a/b;c="', "a b/c", "ä/b", "a/b,"],
)
def test_what_is_no_media_type(content_type: str) -> None:
    """The error says what one looks like."""
    with pytest.raises(InvalidArgument, match="media type") as caught:
        LIMITS.check(new_message(b"", content_type=content_type))
    assert caught.value.field == "content_type"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "content_type", ["a/b" + "; " * 120 + "@", "a/b;" + " ;" * 120 + "@", 'a/b;c="' + "\\\\" * 120]
)
def test_no_media_type_takes_long_to_judge(content_type: str) -> None:
    """A pattern that tried every way to share out the spaces would take longer than the universe is old."""
    with pytest.raises(InvalidArgument):
        LIMITS.check(new_message(b"", content_type=content_type))


@pytest.mark.parametrize(
    ("content_type", "json_", "text"),
    [
        ("application/json", True, False),
        ("Application/JSON; charset=utf-8", True, False),
        ("application/cloudevents+json", True, False),
        ("text/json", True, True),
        ("application/jsonl", False, False),
        ("text/plain", False, True),
        ("text/plain; charset=UTF-8", False, True),
        ('text/plain; charset="us-ascii"', False, True),
        ("text/plain; charset=iso-8859-1", False, False),
        ("application/xml", False, True),
        ("image/svg+xml", False, True),
        ("application/x-www-form-urlencoded", False, True),
        ("application/octet-stream", False, False),
    ],
)
def test_what_is_json_and_what_is_text(content_type: str, json_: bool, text: bool) -> None:
    """Media types compare without case; a foreign charset makes text binary."""
    assert is_json(content_type) is json_
    assert is_text(content_type) is text
    assert media_type(content_type) == content_type.split(";")[0].lower()


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x+json"])
def test_no_data_is_valid_under_any_content_type(content_type: str) -> None:
    """CloudEvents: data is optional."""
    LIMITS.check(new_message(b"", content_type=content_type))


@pytest.mark.parametrize(
    ("content_type", "data", "words"),
    [
        ("application/json", b"{", "valid JSON"),
        ("application/json", b'"\xff"', "byte 1"),
        ("application/json", b"[" * 200_000 + b"]" * 200_000, "deeply"),
        ("application/json", b"NaN", "valid JSON"),
        ("application/json", b"1 2", "valid JSON"),
        ("application/json", b"\xef\xbb\xbf{}", "valid JSON"),
        ("application/x+json", b" ", "valid JSON"),
        ("text/plain", b"ab\xff", "byte 2"),
        ("image/svg+xml", b"\xc0\x80", "byte 0"),
    ],
)
def test_data_that_is_not_what_its_content_type_says(content_type: str, data: bytes, words: str) -> None:
    """JSON and text are read by others as such."""
    with pytest.raises(InvalidArgument, match=words) as caught:
        LIMITS.check(new_message(data, content_type=content_type))
    assert caught.value.field == "data"


def test_text_in_another_charset_is_not_judged() -> None:
    """It is bytes to us."""
    LIMITS.check(new_message(b"\xff", content_type="text/plain; charset=latin1"))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_values)
def test_all_json_passes(value: Any) -> None:
    """What the standard library writes, is JSON."""
    check_json(json.dumps(value, ensure_ascii=False).encode(), "data")
    check_json(json.dumps(value, indent=1).replace("\\ud", "").encode(), "data")


def _refuse(word: str) -> None:
    raise ValueError(word)


@given(st.binary(max_size=20) | st.text(alphabet='[]{}",:\\u0019e.-+ \ntruefalsn', max_size=20).map(str.encode))
@example(b'{"a":1,}')
@example(b"01")
@example(b"1.")
@example(b'"\x01"')
@example(b'"\\x"')
def test_what_passes_is_json(data: bytes) -> None:
    """Nothing gets in that the standard library can't read."""
    try:
        check_json(data, "data")
    except InvalidArgument:
        return
    json.loads(data.decode(), parse_constant=_refuse)


@given(st.text(), st.text(), st.text(), st.dictionaries(st.text(max_size=22), st.text(), max_size=3), st.binary())
def test_a_message_that_passes_can_be_encoded(id_: str, key: str, kind: str, more: dict[str, str], data: bytes) -> None:
    """Its size is that of its UTF-8, else an error of the tree says why not."""
    message = new_message(data, id=id_, key=key, content_type=kind, attributes=more)
    try:
        size = LIMITS.check(message)
    except (InvalidArgument, TooLarge):
        return
    strings = [id_, message.source, message.type, kind, key, *more, *more.values()]
    assert size == len(data) + sum(len(text.encode()) for text in strings)
