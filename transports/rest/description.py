"""What the door tells about itself: the OpenAPI document and the page that shows it."""

from functools import cached_property

import msgspec

from transports.rest.answers import Answer
from transports.rest.requests import Request

#: The page is one file that loads nothing but the document beside it.
_POLICY = (
    b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Description:
    """Answers `/openapi.json` and `/docs`, each made when it is first asked for, which few processes ever are."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def openapi(self, request: Request) -> Answer:
        request.query()
        return self._openapi

    async def docs(self, request: Request) -> Answer:
        request.query()
        return self._docs

    @cached_property
    def _openapi(self) -> Answer:
        from transports.rest.openapi import document

        return Answer(body=msgspec.json.encode(document(self._version)))

    @cached_property
    def _docs(self) -> Answer:
        from importlib.resources import files

        page = files(__package__).joinpath("docs.html").read_bytes()
        return Answer(body=page, content_type="text/html; charset=utf-8", content_policy=_POLICY)
