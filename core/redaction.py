"""What keeps secrets and control characters out of the log."""

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from structlog.typing import EventDict, WrappedLogger

HIDDEN = "[redacted]"
#: The names of fields whose value is nobody's business.
_SECRET_NAME = re.compile(r"passw(or)?d|secret|token|authorization|cookie|credential|api_?key", re.IGNORECASE)
#: The password of a URL, which may be one that we never had in our settings. It begins at what every URL has, and reads
#: on to the next slash: to look for the scheme in front of that would cost the square of a long line with many dots.
_URL_PASSWORD = re.compile(r"(://[^\s/:@\"']*:)[^\s/\"']*@")
#: An API key (`core.keys`) where its id was wanted, in a path that the access log tells, as an example.
_API_KEY = re.compile(r"(trv_[0-9A-Za-z]{12}_)[0-9A-Za-z]+")
#: Shorter ones would be found in half of all words.
_SHORTEST = 4
#: RabbitMQ's default is no secret, and also a user's name.
_NO_SECRETS = {"guest"}
#: C0 and C1, DEL, what ends lines elsewhere, and what changes the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def secrets_of(url: str) -> tuple[str, ...]:
    """The password of a URL in the forms it may be seen in: as written there, and as sent."""
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return ()
    return tuple(dict.fromkeys(one for one in (password, unquote(password)) if one))


def escape(text: str) -> str:
    """The same on one line, without what a terminal would obey."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class Redactor:
    """Hides secrets: fields by their name, and known values wherever they stand, tracebacks included."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {one for one in secrets if len(one) >= _SHORTEST} - _NO_SECRETS
        forms = {form for one in known for form in (one, json.dumps(one)[1:-1], repr(one)[1:-1], escape(one))}
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def fields(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor of structlog."""
        for name in event:
            if _SECRET_NAME.search(name):
                event[name] = HIDDEN
        return event

    def line(self, line: str) -> str:
        """A line as it is to be written, whatever stands in it."""
        if "://" in line:
            line = _URL_PASSWORD.sub(rf"\1{HIDDEN}@", line)
        if "trv_" in line:
            line = _API_KEY.sub(rf"\1{HIDDEN}", line)
        return line if self._known is None else self._known.sub(HIDDEN, line)
