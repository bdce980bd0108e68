"""The rules that every message obeys, whichever door it came through."""

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

import msgspec
from msgspec import Struct

from core.errors import InvalidArgument, TooLarge, TriviumError
from core.messages import Message

TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
#: Offsets are integers that every JSON reader can hold exactly.
MAX_OFFSET = 2**53 - 1

#: CloudEvents 1.0.2, naming conventions: lower-case letters and digits, at most 20 as it recommends.
_EXTENSION = re.compile(r"[a-z0-9]{1,20}\Z")
#: Names that an extension can't take, since they have a place of their own.
_RESERVED = frozenset(
    {"id", "source", "type", "specversion", "time", "subject", "datacontenttype", "data", "partitionkey"}
    | {"topic", "offset"}
)
#: CloudEvents 1.0.2, type system: a String has no control characters, surrogates or noncharacters.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane + end) for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))
    + "]"
)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's token, not a secret
#: RFC 9110, section 8.3.1. Possessive, since `; ; ; ;@` would else be tried in 2**n ways.
_MEDIA_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*(?:{_TOKEN}=(?:{_TOKEN}|"(?:[^"\\]|\\.)*"))?)*+\Z')
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]+)', re.IGNORECASE)
_UTF8_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})

#: Content types that are remembered: publishers use few, and each would be judged anew for every message.
_KNOWN_CONTENT_TYPES = 1024
_NO_OFFSET = timedelta(0)
_json_syntax = msgspec.json.Decoder(msgspec.Raw)


def media_type(content_type: str) -> str:
    """`text/plain` of `Text/Plain; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """CloudEvents JSON format 1.0.2, section 3.1: any type `*/json` or `*/*+json`."""
    if content_type == "application/json":  # by far the most common
        return True
    subtype = media_type(content_type).partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def is_text(content_type: str) -> bool:
    """Types whose data is UTF-8 text: `text/*`, XML and forms, unless they name another charset."""
    media = media_type(content_type)
    if not (
        media.startswith("text/")
        or media in ("application/xml", "application/x-www-form-urlencoded")
        or media.endswith("+xml")
    ):
        return False
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].lower() in _UTF8_CHARSETS


def check_topic(topic: str, field: str = "topic") -> None:
    """Raise `InvalidArgument` unless `topic` is a name a topic can have."""
    if not TOPIC.match(topic):
        raise InvalidArgument(
            "must be 1 to 200 letters, digits, '.', '_' or '-', the first a letter or a digit", field=field
        )


def check_offset(value: int, field: str, *, lowest: int = 0) -> None:
    """Raise `InvalidArgument` unless `value` is an offset or a cursor (`lowest` 1 or 0)."""
    if not lowest <= value <= MAX_OFFSET:
        raise InvalidArgument(f"must be an integer from {lowest} to {MAX_OFFSET}", field=field)


def check_json(data: bytes, field: str) -> None:
    """Raise `InvalidArgument` unless `data` is one JSON text in UTF-8 (RFC 8259)."""
    try:
        data.decode()  # msgspec.Raw lets invalid UTF-8 through
        _json_syntax.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"must be UTF-8, byte {error.start} is not", field=field) from error
    except RecursionError as error:
        raise InvalidArgument("nests too deeply to be read as JSON", field=field) from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"must be valid JSON: {error}", field=field) from error


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of a message and a batch, in bytes of UTF-8 where not said otherwise."""

    message_bytes: int = 1024 * 1024
    attributes_bytes: int = 8 * 1024
    attribute_bytes: int = 255
    extensions: int = 32
    batch_messages: int = 1000
    batch_bytes: int = 4 * 1024 * 1024

    def check_batch(self, messages: Sequence[Message]) -> int:
        """The bytes of the batch (data and attributes); raises what `check` raises, naming the index."""
        if not messages:
            raise InvalidArgument("must hold at least one message", field="messages")
        if len(messages) == 1:
            return self.check(messages[0])
        self.check_count(len(messages))
        total = 0
        before, kind = messages[0], None
        for index, message in enumerate(messages):
            try:
                if (
                    kind is None
                    or message.type != before.type
                    or message.source != before.source
                    or message.content_type != before.content_type
                ):
                    kind = _kind(message, self.attribute_bytes)
                total += self._check(message, kind)
                before = message
            except TriviumError as error:
                raise error.within(f"messages[{index}]") from error
        if total > self.batch_bytes:
            raise TooLarge(f"{total} bytes, at most {self.batch_bytes} in one batch", field="messages")
        return total

    def check_count(self, count: int) -> None:
        """Raise `TooLarge` if so many messages are too many for a batch; of use before they are decoded."""
        if count > self.batch_messages:
            raise TooLarge(f"{count} messages, at most {self.batch_messages} in one batch", field="messages")

    def check_extensions(self, count: int) -> None:
        """Raise `InvalidArgument` if so many are too many for a message; of use before they are decoded."""
        if count > self.extensions:
            raise InvalidArgument(f"must be at most {self.extensions}, not {count}", field="attributes")

    def check(self, message: Message) -> int:
        """The bytes of the message; `InvalidArgument` or `TooLarge` names the field that breaks a rule."""
        return self._check(message, _kind(message, self.attribute_bytes))

    def _check(self, message: Message, kind: "_Kind") -> int:
        size = kind.bytes + _string("id", message.id, self.attribute_bytes)
        if message.subject is not None:
            size += _string("subject", message.subject, self.attribute_bytes)
        if message.key is not None:
            size += _string("key", message.key, self.attribute_bytes)
        if message.attributes:
            size += self._extensions(message)
        if size > self.attributes_bytes:
            raise TooLarge(f"{size} bytes, at most {self.attributes_bytes} in all", field="attributes")
        data = message.data
        size += len(data)
        if size > self.message_bytes:
            raise TooLarge(f"{size} bytes with attributes, at most {self.message_bytes}", field="data")
        if message.time is not None and message.time.utcoffset() != _NO_OFFSET:
            raise InvalidArgument("must be in UTC", field="time")
        if data:  # CloudEvents: it is optional under any content type
            if kind.has_json:
                check_json(data, "data")
            elif kind.has_text:
                _check_text(data)
        return size

    def _extensions(self, message: Message) -> int:
        self.check_extensions(len(message.attributes))
        size = 0
        for name, value in message.attributes.items():
            if not _EXTENSION.match(name) or name in _RESERVED:
                raise InvalidArgument(
                    "an extension's name is 1 to 20 of a-z and 0-9, and no attribute's name",
                    field=f"attributes[{name[:40]!r}]",
                )
            size += len(name) + _utf8_length(f"attributes[{name!r}]", value)
        return size


class _Kind(Struct, frozen=True, gc=False):
    """What messages of one source, type and content type share, once it was found to obey the rules."""

    bytes: int
    has_json: bool
    has_text: bool


class _Judged(Struct):
    """The kind that was judged last: most messages are of the kind of the one before. A cache of many costs more."""

    source: str = ""
    type: str = ""
    content_type: str = ""
    most: int = 0
    kind: _Kind = _Kind(0, has_json=False, has_text=False)


_judged = _Judged()


def _kind(message: Message, most: int) -> _Kind:
    source, type_, content_type = message.source, message.type, message.content_type
    if (
        source != _judged.source
        or type_ != _judged.type
        or content_type != _judged.content_type
        or most != _judged.most
    ):
        content = _content_kind(content_type, most)
        size = content.bytes + _string("source", source, most) + _string("type", type_, most)
        _judged.kind = _Kind(size, content.has_json, content.has_text)
        _judged.source, _judged.type, _judged.content_type, _judged.most = source, type_, content_type, most
    return _judged.kind


@lru_cache(_KNOWN_CONTENT_TYPES)
def _content_kind(content_type: str, most: int) -> _Kind:
    """What messages of one content type share."""
    size = _string("content_type", content_type, most)
    if not _MEDIA_TYPE.match(content_type):
        raise InvalidArgument("must be a media type such as 'application/json'", field="content_type")
    return _Kind(size, is_json(content_type), is_text(content_type))


def _string(name: str, value: str, most: int) -> int:
    size = _utf8_length(name, value)
    if not 0 < size <= most:
        raise InvalidArgument(f"must be at most {most} bytes, not {size}" if size else "must not be empty", field=name)
    return size


def _check_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"must be UTF-8 as its content type says, byte {error.start} is not", field="data"
        ) from error


def _utf8_length(name: str, value: str) -> int:
    if value.isascii() and value.isprintable():
        return len(value)
    if _FORBIDDEN.search(value):
        raise InvalidArgument("must not hold control characters, surrogates or noncharacters", field=name)
    return len(value.encode())
