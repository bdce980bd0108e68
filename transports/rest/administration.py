"""API keys as JSON."""

import msgspec
from msgspec import Struct

from core.administration import KeyInfo, KeyPage, NewKey
from transports.rest.answers import Answer
from transports.rest.requests import Request, json_body


class _Wanted(Struct, forbid_unknown_fields=True):
    """The body of `POST /api/keys`."""

    principal: str
    days: float | None = None


_wanted = msgspec.json.Decoder(_Wanted)


def wanted_key(request: Request) -> tuple[str, float | None]:
    """For whom a key is asked, and for how many days."""
    body = json_body(request, _wanted, '{"principal": <string>, "days": <number or null>}')
    return body.principal, body.days


def new_key_answer(made: NewKey) -> Answer:
    return Answer(status=201, body=msgspec.json.encode({"key": made.key, **msgspec.structs.asdict(made.info)}))


def key_answer(key: KeyInfo) -> Answer:
    return Answer(body=msgspec.json.encode(key))


def keys_answer(page: KeyPage) -> Answer:
    return Answer(body=msgspec.json.encode(page))
