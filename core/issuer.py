"""What the issuer of access tokens publishes: where its keys are, and the keys."""

import asyncio
import io
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    AbstractHTTPHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
)

import msgspec
from msgspec import Struct

from core import VERSION
from core.settings import Settings, is_trustworthy

#: The key set of an issuer with many keys and certificates is some tens of KiB.
MAX_BYTES = 256 * 1024
#: For connecting, and for a whole answer, its headers included.
_SECONDS = 5.0
#: For everything: two places of the discovery document, and the keys.
_ALL_SECONDS = 3 * _SECONDS
_PIECE = 64 * 1024


class IssuerAway(Exception):
    """The keys can't be had now, and why."""


class KeySource(Protocol):
    """Where a JWK Set (RFC 7517) comes from."""

    async def read(self) -> bytes:
        """The set as it is published now, at most `MAX_BYTES`; `IssuerAway` if it can't be had, within 15 s."""


class Issuer:
    """A `KeySource`: the issuer's discovery document, or a URL or a file that the settings name.

    What blocks runs in one thread at a time. It is no daemon: one that is inside OpenSSL while the process ends takes
    it down with a segmentation fault. So the end waits for it, at most as long as an issuer may be silent.
    """

    def __init__(self, settings: Settings) -> None:
        place = settings.token_jwks
        self._work: Callable[[], bytes]
        if not place:
            self._work = partial(_discovered, settings.token_issuer)
        elif "://" in place:
            self._work = partial(_download, place)
        else:
            self._work = partial(_read, Path(place))
        self.busy = False

    async def read(self) -> bytes:
        if self.busy:  # who waited for it has left
            raise IssuerAway("the last request is not over yet")
        try:
            async with asyncio.timeout(_ALL_SECONDS):
                return await asyncio.to_thread(self._run)
        except TimeoutError as error:
            raise IssuerAway(f"no answer within {_ALL_SECONDS:g} s") from error

    def _run(self) -> bytes:
        self.busy = True  # not before: one that is cancelled while it waits for a thread never gets here
        try:
            return self._work()
        except (OSError, HTTPException, ValueError) as error:
            raise IssuerAway(f"{type(error).__name__}: {error}"[:300]) from error
        finally:
            self.busy = False


class _Metadata(Struct):
    """What counts of a discovery document (OpenID Connect Discovery 1.0, section 3; RFC 8414, section 2)."""

    issuer: str
    jwks_uri: str


def _discovered(issuer: str) -> bytes:
    """The keys that the issuer's own metadata names: at OpenID Connect's place, or else at OAuth's."""
    try:
        place = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        document = _download(place)
    except HTTPError:
        parts = urlsplit(issuer)
        path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"  # RFC 8414, section 3.1
        place = urlunsplit(parts._replace(path=path))
        document = _download(place)
    try:
        metadata = msgspec.json.decode(document, type=_Metadata)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise IssuerAway(f"{place} is no discovery document") from error
    if metadata.issuer != issuer:
        raise IssuerAway(f"{place} is the document of another issuer")
    if not is_trustworthy(metadata.jwks_uri):
        raise IssuerAway(f"{place} names no https URL of the keys")
    return _download(metadata.jwks_uri)


def _download(url: str) -> bytes:
    """What is at `url`. Redirects are not followed: an https URL stays one."""
    headers = {"Accept": "application/json", "User-Agent": f"trivium/{VERSION}"}
    request = Request(url, headers=headers)  # noqa: S310 - callers have asked is_trustworthy
    body = bytearray()
    try:
        with _opener().open(request, timeout=_SECONDS) as answer:
            while piece := answer.read1(_PIECE):
                body += piece
                if len(body) > MAX_BYTES:
                    raise IssuerAway(f"{url} has more than {MAX_BYTES} bytes")
    except HTTPError as error:
        error.close()
        error.msg = url
        raise
    return bytes(body)


def _opener() -> OpenerDirector:
    """HTTP without cookies, passwords, redirects, files and FTP; a proxy of the environment is used for https."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler({scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}),
        _Http(),
        _Https(context=ssl.create_default_context()),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _UntilThen(io.RawIOBase):
    """What a connection receives before a time is over. A socket's own timeout begins again with every byte."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = connection.makefile("rb", buffering=0)
        self._until = time.monotonic() + _SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        try:
            self._connection.settimeout(max(left, 0.001))
            return self._received.readinto(buffer)
        except TimeoutError as error:
            raise TimeoutError(f"the answer did not arrive within {_SECONDS:g} s") from error

    def close(self) -> None:
        self._received.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilThen(sock))


class _InTime(AbstractHTTPHandler):
    def do_open(self, http_class: Any, *arguments: Any, **options: Any) -> HTTPResponse:
        """Whatever the connection, its answers are punctual."""

        def connection(*where: Any, **how: Any) -> Any:
            made = http_class(*where, **how)
            made.response_class = _Answer
            return made

        return super().do_open(connection, *arguments, **options)


class _Http(_InTime, HTTPHandler):
    """http, for loopback."""


class _Https(_InTime, HTTPSHandler):
    """https."""


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        found = opened.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise IssuerAway(f"{file} has more than {MAX_BYTES} bytes")
    return found
