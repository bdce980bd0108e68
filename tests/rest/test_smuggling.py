"""Requests that two parsers could read in two ways: what is not clear is refused, and what follows it is not looked at.

The same bytes go to stock Hypercorn, with the same application. Where it answers otherwise, the table says how.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from core.service import LocalService
from tests.rest.wire import exchanged
from transports.rest import http1
from transports.rest.door import RestDoor

HOST = b"Host: x\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST
POST = b"POST /api/topics/t/messages HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
#: What is sent behind each case: who reads another length sees no request in it, or one that was not meant.
NEXT = b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n"
REFUSED = (400,)


class Case(NamedTuple):
    """Bytes, the statuses that answer them and `NEXT`, and what is stored where one is 201."""

    data: bytes
    statuses: tuple[int, ...]
    stored: bytes = b"abc"


CASES = {
    # lengths
    "length": Case(POST + b"Content-Length: 3\r\n\r\nabc", (201, 404)),
    "length with white space": Case(POST + b"Content-Length: \t 3 \t\r\n\r\nabc", (201, 404)),
    "length with leading zeros": Case(POST + b"Content-Length: 003\r\n\r\nabc", (201, 404)),
    "length of a GET": Case(GET + b"Content-Length: 3\r\n\r\nabc", (200, 404)),
    "two lengths": Case(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", REFUSED),
    "the same length twice": Case(POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", REFUSED),
    "the same length in a list": Case(POST + b"Content-Length: 3, 3\r\n\r\nabc", REFUSED),
    "two lengths in a list": Case(POST + b"Content-Length: 3, 4\r\n\r\nabc", REFUSED),
    "no length": Case(POST + b"Content-Length:\r\n\r\nabc", REFUSED),
    "negative length": Case(POST + b"Content-Length: -3\r\n\r\nabc", REFUSED),
    "length with a sign": Case(POST + b"Content-Length: +3\r\n\r\nabc", REFUSED),
    "length with an underscore": Case(POST + b"Content-Length: 0_3\r\n\r\nabc", REFUSED),
    "hexadecimal length": Case(POST + b"Content-Length: 0x3\r\n\r\nabc", REFUSED),
    "length with a fraction": Case(POST + b"Content-Length: 3.0\r\n\r\nabc", REFUSED),
    "length in other digits": Case(POST + "Content-Length: ٣\r\n\r\nabc".encode(), REFUSED),
    "length of two numbers": Case(POST + b"Content-Length: 3 3\r\n\r\nabc", REFUSED),
    "length beyond 64 bits": Case(POST + b"Content-Length: 18446744073709551619\r\n\r\nabc", REFUSED),
    "length in underscores' clothes": Case(POST + b"Content_Length: 3\r\n\r\n", (201, 404), stored=b""),
    # transfer codings
    "chunked": Case(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", (201, 404)),
    "CHUNKED": Case(POST + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", (201, 404)),
    "length, then chunked": Case(POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked, then length": Case(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", REFUSED),
    "another coding": Case(POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", REFUSED),
    "identity": Case(POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", REFUSED),
    "a coding and chunked": Case(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", REFUSED),
    "a coding and chunked apart": Case(
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED
    ),
    "chunked and a coding": Case(POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked twice": Case(POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked twice apart": Case(
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED
    ),
    "chunked with a parameter": Case(POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked in quotes": Case(POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', REFUSED),
    "xchunked": Case(POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", REFUSED),
    "no coding": Case(POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked after a vertical tab": Case(POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked in HTTP/1.0": Case(POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED),
    "coding with white space before the colon": Case(POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", REFUSED),
    # chunks
    "chunk with leading zeros": Case(CHUNKED + b"0003\r\nabc\r\n0\r\n\r\n", (201, 404)),
    "chunks that end with a line feed": Case(CHUNKED + b"3\nabc\n0\n\n", REFUSED),
    "size that ends with a line feed": Case(CHUNKED + b"3\nabc\r\n0\r\n\r\n", REFUSED),
    "data that ends with a line feed": Case(CHUNKED + b"3\r\nabc\n0\r\n\r\n", REFUSED),
    "data without an end": Case(CHUNKED + b"3\r\nabc0\r\n\r\n", REFUSED),
    "more data than said": Case(CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", REFUSED),
    "less data than said": Case(CHUNKED + b"4\r\nabc\r\n0\r\n\r\n", REFUSED),
    "negative size": Case(CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size with a sign": Case(CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size with 0x": Case(CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size with an underscore": Case(CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size after a space": Case(CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size before a space": Case(CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", REFUSED),
    "no size": Case(CHUNKED + b"\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size beyond 64 bits": Case(CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n", REFUSED),
    "size that ends with a carriage return": Case(CHUNKED + b"3\rxabc\r\n0\r\n\r\n", REFUSED),
    "last chunk that ends with a line feed": Case(CHUNKED + b"3\r\nabc\r\n0\n\r\n", REFUSED),
    "body that ends with a line feed": Case(CHUNKED + b"3\r\nabc\r\n0\r\n\n", REFUSED),
    "body that ends with a carriage return": Case(CHUNKED + b"3\r\nabc\r\n0\r\n\rX", REFUSED),
    "extension": Case(CHUNKED + b'3;a=b;c="d;\\""\r\nabc\r\n0;e\r\n\r\n', (201, 404)),
    "extension that ends with a line feed": Case(CHUNKED + b"3;a\nabc\r\n0\r\n\r\n", REFUSED),
    "extension with a carriage return": Case(CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n", REFUSED),
    "extension with a line end in quotes": Case(CHUNKED + b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n', REFUSED),
    "extension with NUL": Case(CHUNKED + b"3;a\0\r\nabc\r\n0\r\n\r\n", REFUSED),
    "huge extension": Case(CHUNKED + b"3;" + b"a" * 40_000 + b"\r\nabc\r\n0\r\n\r\n", (413,)),
    "many extensions": Case(CHUNKED + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 40 + b"0\r\n\r\n", (413,)),
    "trailers": Case(CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\nHost: y\r\n\r\n", (201, 404)),
    "length among trailers": Case(CHUNKED + b"0\r\nContent-Length: 44\r\n\r\n", REFUSED),
    "coding among trailers": Case(CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED),
    "trailer that is none": Case(CHUNKED + b"0\r\nGET /livez HTTP/1.1\r\n\r\n", REFUSED),
    "trailer that ends with a line feed": Case(CHUNKED + b"0\r\nA: b\n\r\n", REFUSED),
    "folded trailer": Case(CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", REFUSED),
    "trailer with NUL": Case(CHUNKED + b"0\r\nA: \0\r\n\r\n", REFUSED),
    "huge trailers": Case(CHUNKED + b"0\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 40 + b"\r\n", (413,)),
    # lines
    "bare line feeds": Case(GET.replace(b"\r\n", b"\n") + b"\n", REFUSED),
    "line feed behind the request line": Case(b"GET /livez HTTP/1.1\nHost: x\r\n\r\n", REFUSED),
    "line feed behind a header": Case(GET + b"A: b\nC: d\r\n\r\n", REFUSED),
    "line feed at the end": Case(GET + b"\n", REFUSED),
    "carriage return in a header": Case(GET + b"A: b\rC: d\r\n\r\n", REFUSED),
    "two carriage returns": Case(GET + b"A: b\r\r\n\r\n", REFUSED),
    "folded header": Case(GET + b"A: b\r\n c\r\n\r\n", REFUSED),
    "folded length": Case(POST + b"Content-Length:\r\n 3\r\n\r\nabc", REFUSED),
    "folded first header": Case(b"GET /livez HTTP/1.1\r\n Host: x\r\n\r\n", REFUSED),
    "empty line before": Case(b"\r\n" + GET + b"\r\n", (200, 404)),
    "empty lines before": Case(b"\r\n\r\n" + GET + b"\r\n", REFUSED),
    "line feed before": Case(b"\n" + GET + b"\r\n", REFUSED),
    "space before": Case(b" " + GET + b"\r\n", REFUSED),
    # headers
    "white space before the colon": Case(GET + b"A : b\r\n\r\n", REFUSED),
    "tab before the colon": Case(GET + b"A\t: b\r\n\r\n", REFUSED),
    "no colon": Case(GET + b"A\r\n\r\n", REFUSED),
    "no name": Case(GET + b": b\r\n\r\n", REFUSED),
    "name with a space": Case(GET + b"A b: c\r\n\r\n", REFUSED),
    "name with a parenthesis": Case(GET + b"A(: b\r\n\r\n", REFUSED),
    "name with NUL": Case(GET + b"A\0: b\r\n\r\n", REFUSED),
    "name beyond ASCII": Case(GET + b"\xc3\xa4: b\r\n\r\n", REFUSED),
    "value with NUL": Case(GET + b"A: b\0c\r\n\r\n", REFUSED),
    "value with a control character": Case(GET + b"A: b\x01c\r\n\r\n", REFUSED),
    "value with DEL": Case(GET + b"A: b\x7fc\r\n\r\n", REFUSED),
    "value beyond ASCII": Case(GET + b"A: \xc3\xa4\r\n\r\n", (200, 404)),
    "value with a tab": Case(GET + b"A: b\tc\r\n\r\n", (200, 404)),
    "empty value": Case(GET + b"A:\r\n\r\n", (200, 404)),
    # hosts
    "no host": Case(b"GET /livez HTTP/1.1\r\n\r\n", REFUSED),
    "no host in HTTP/1.0": Case(b"GET /livez HTTP/1.0\r\n\r\n", (200,)),
    "two hosts": Case(GET + b"Host: y\r\n\r\n", REFUSED),
    "the same host twice": Case(GET + HOST + b"\r\n", REFUSED),
    "empty host": Case(b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n", (200, 404)),
    "host with a port": Case(b"GET /livez HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", (200, 404)),
    "host with a path": Case(b"GET /livez HTTP/1.1\r\nHost: x/y\r\n\r\n", REFUSED),
    "host with a user": Case(b"GET /livez HTTP/1.1\r\nHost: a@x\r\n\r\n", REFUSED),
    "host with a space": Case(b"GET /livez HTTP/1.1\r\nHost: x y\r\n\r\n", REFUSED),
    "host with a port that is none": Case(b"GET /livez HTTP/1.1\r\nHost: x:80:80\r\n\r\n", REFUSED),
    # request lines
    "absolute target": Case(b"GET http://y/livez HTTP/1.1\r\nHost: x\r\n\r\n", (200, 404)),
    "ABSOLUTE target": Case(b"GET HTTPS://y/livez HTTP/1.1\r\nHost: x\r\n\r\n", (200, 404)),
    "absolute target without a path": Case(b"GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", (404, 404)),
    "target of another scheme": Case(b"GET ftp://y/livez HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "authority": Case(b"GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "CONNECT": Case(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "OPTIONS *": Case(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", (404, 404)),
    "relative target": Case(b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "fragment": Case(b"GET /livez#a HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "target with NUL": Case(b"GET /livez\0 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "target with a space": Case(b"GET /livez /nope HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "target with a tab": Case(b"GET /livez\t HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "target beyond ASCII": Case(b"GET /livez\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "two spaces": Case(b"GET  /livez HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "two spaces before the version": Case(b"GET /livez  HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "space behind the version": Case(b"GET /livez HTTP/1.1 \r\nHost: x\r\n\r\n", REFUSED),
    "tabs": Case(b"GET\t/livez\tHTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "no version": Case(b"GET /livez\r\nHost: x\r\n\r\n", REFUSED),
    "HTTP/0.9": Case(b"GET /livez HTTP/0.9\r\nHost: x\r\n\r\n", REFUSED),
    "HTTP/1.2": Case(b"GET /livez HTTP/1.2\r\nHost: x\r\n\r\n", REFUSED),
    "HTTP/1.10": Case(b"GET /livez HTTP/1.10\r\nHost: x\r\n\r\n", REFUSED),
    "HTTP/2.0": Case(b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n", REFUSED),
    "http/1.1": Case(b"GET /livez http/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "RTSP": Case(b"GET /livez RTSP/1.0\r\nHost: x\r\n\r\n", REFUSED),
    "ICE": Case(b"SOURCE /livez ICE/1.0\r\nHost: x\r\n\r\n", REFUSED),
    "method that nobody knows": Case(b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n", (405, 404)),
    "method that nobody knows, with a body": Case(
        b"BREW /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", (405, 404)
    ),
    "method in lower case": Case(b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n", (405, 404)),
    "method with a parenthesis": Case(b"GET( /livez HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "PRI in the middle": Case(GET + b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (200, 400)),
    # upgrades and endings
    "upgrade": Case(GET + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n", (200, 404)),
    "upgrade with a body": Case(
        POST + b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 3\r\n\r\nabc", (201, 404)
    ),
    "upgrade with chunks": Case(
        POST + b"Connection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        (201, 404),
    ),
    "upgrade to HTTP/2": Case(
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n", (200, 404)
    ),
    "close": Case(GET + b"Connection: close\r\n\r\n", (200,)),
    "close in a list": Case(GET + b"Connection: keep-alive, Close\r\n\r\n", (200,)),
    "close, to a proxy": Case(GET + b"Proxy-Connection: close\r\n\r\n", (200,)),
    "HTTP/1.0": Case(GET.replace(b"1.1", b"1.0") + b"\r\n", (200,)),
    "HTTP/1.0 that keeps alive": Case(GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n", (200,)),
}

#: What stock Hypercorn, on h11, answers instead. It takes sloppier heads and chunks, says 501 where 400 is said here,
#: and lets what follows a request that closes the connection spoil that request.
HYPERCORN: dict[str, tuple[int, ...]] = {
    "the same length twice": (201, 404),
    "the same length in a list": (201, 404),
    "length beyond 64 bits": (),
    "length, then chunked": (201, 404),
    "chunked, then length": (201, 404),
    "another coding": (501,),
    "identity": (501,),
    "a coding and chunked": (501,),
    "a coding and chunked apart": (501,),
    "chunked and a coding": (501,),
    "chunked twice": (501,),
    "chunked twice apart": (501,),
    "chunked with a parameter": (501,),
    "chunked in quotes": (501,),
    "xchunked": (501,),
    "no coding": (501,),
    "size before a space": (201, 404),
    "size beyond 64 bits": (),
    "body that ends with a line feed": (201, 404),
    "extension with a carriage return": (201, 404),
    "extension with NUL": (201, 404),
    "huge extension": (201, 404),
    "many extensions": (201, 404),
    "length among trailers": (201, 404),
    "coding among trailers": (201, 404),
    "trailer that ends with a line feed": (201, 404),
    "folded trailer": (201, 404),
    "huge trailers": (201, 404),
    "bare line feeds": (200, 404),
    "line feed behind the request line": (200, 404),
    "line feed behind a header": (200, 404),
    "line feed at the end": (200, 404),
    "folded header": (200, 404),
    "folded length": (201, 404),
    "empty line before": (400,),
    "value with a control character": (200, 404),
    "value with DEL": (200, 404),
    "no host in HTTP/1.0": (400,),
    "host with a path": (200, 404),
    "host with a user": (200, 404),
    "host with a space": (200, 404),
    "host with a port that is none": (200, 404),
    "target of another scheme": (404, 404),
    "authority": (404, 404),
    "CONNECT": (404, 404),
    "relative target": (404, 404),
    "fragment": (404, 404),
    "HTTP/1.2": (200, 404),
    "HTTP/2.0": (200, 404),
    "method in lower case": (200, 404),
    "PRI in the middle": (200,),
    "upgrade to HTTP/2": (101,),
    "close": (400,),
    "close in a list": (400,),
    "close, to a proxy": (200, 404),
    "HTTP/1.0": (400,),
    "HTTP/1.0 that keeps alive": (400,),
}


@pytest.fixture
async def hypercorn(door: RestDoor) -> AsyncIterator[tuple[str, int]]:
    """Stock Hypercorn with the application of the door."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 0
    config.errorlog = logging.getLogger("hypercorn.error")
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(door.intake, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    yield "127.0.0.1", port
    stop.set()
    await serving


@pytest.fixture(autouse=True)
def lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused is read on for as long as the test's client needs to send the rest."""
    monkeypatch.setattr(http1, "_LINGER_SECONDS", 20)


@pytest.mark.parametrize("name", CASES)
async def test_reads_each_request_in_one_way(door: RestDoor, service: LocalService, name: str) -> None:
    """Each request gets its own answer; none is made of parts of another."""
    case = CASES[name]
    address = urlsplit(door.address)
    assert address.hostname is not None
    assert address.port is not None
    assert await _statuses(address.hostname, address.port, case.data + NEXT) == case.statuses
    stored = (await service.read_messages("t")).messages
    assert [message.message.data for message in stored] == [case.stored] * case.statuses.count(201)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.data) < 1000])
async def test_reads_requests_that_come_in_crumbs(door: RestDoor, name: str) -> None:
    """It makes no difference where the bytes are parted."""
    case = CASES[name]
    address = urlsplit(door.address)
    assert address.hostname is not None
    assert address.port is not None
    assert await _statuses(address.hostname, address.port, case.data + NEXT, crumb=1) == case.statuses


async def test_differs_from_hypercorn_where_it_says_so(hypercorn: tuple[str, int]) -> None:
    """The second table tells what stock Hypercorn makes of the same bytes, where it is something else."""
    found = await asyncio.gather(*[_statuses(*hypercorn, case.data + NEXT) for case in CASES.values()])
    others = zip(CASES.items(), found, strict=True)
    assert {name: other for (name, case), other in others if other != case.statuses} == HYPERCORN


async def _statuses(host: str, port: int, data: bytes, crumb: int = 0) -> tuple[int, ...]:
    """The statuses of all answers to what is sent by a client that then closes its half."""
    answers = await exchanged(host, port, data, crumb)
    return tuple(int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answers))
