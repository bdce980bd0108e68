"""The parser of HTTP/1.1, fed with what nobody would send."""

from itertools import pairwise

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from transports.rest.heads import BadRequest
from transports.rest.parsing import RequestParser

#: What requests are made of, for hypothesis to put together.
PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"BREW / HTTP/1.0\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"\r\n",
        b"abc",
        b"3\r\nabc\r\n",
        b"3;e=f\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"\r",
        b"\n",
        b"\0",
        b" ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
)

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
EXPECTING = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
LONG = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nA: %b\r\n\r\nabc" % (b"a" * 2048)
#: Whole requests, of every kind that is read in a way of its own.
REQUESTS = [
    POST,
    POST.replace(b"abc", b"\r\n\r"),
    POST.replace(b"POST", b"BREW"),
    b"\r\n" + POST,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    POST.replace(b"Content", b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent"),
    CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
    EXPECTING,
    LONG,
]
CHUNK = st.builds(
    lambda size, extension, data: size % len(data) + extension + b"\r\n" + data + b"\r\n",
    st.sampled_from((b"%x", b"%X", b"00%x")),
    st.sampled_from((b"", b"", b";", b";a", b';a="b"', b" ;a", b";\r", b";\n")),
    st.text("\r\n0;:3 aG", max_size=20).map(str.encode),
)
#: What chunked bodies are made of, and what is none.
CHUNKS = CHUNK | st.sampled_from(
    (b"0\r\n", b"\r\n", b"A: b\r\n", b"\n", b"\r", b"3", b";", b" ", b"-", b"_", b"ffffffffffffffff")
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place for place in cuts if place < len(data)), len(data)]
    return [data[begin:end] for begin, end in pairwise(places) if begin < end]


class Judge:
    """What llhttp makes of a chunked body that it gets in one piece, up to its end."""

    def __init__(self, body: bytes) -> None:
        self.parts: list[bytes] = []
        self.complete = self.fails = False
        parser = HttpRequestParser(self)
        try:
            parser.feed_data(CHUNKED + body)
        except HttpParserError:
            self.fails = True

    def on_body(self, part: bytes) -> None:
        if not self.complete:
            self.parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


def read(parts: list[bytes]) -> list[object]:
    """What a parser makes of bytes that come in parts: heads and bodies, and at the end why it gave up, if it did."""
    parser = RequestParser()
    found: list[object] = []
    body: bytes | None = None
    try:
        for part in parts:
            parser.add(part)
            while parser.has_more:
                if body is None:
                    head = parser.read_head()
                    if head is None:
                        break
                    found.append((head.method, head.target, head.version, head.headers, head.length))
                    body = b""
                else:
                    body += parser.read_body()
                if parser.complete:
                    found.append(body)
                    body = None
                    parser.next()
    except BadRequest as error:
        found.append(error.status)
    return found


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
def test_reads_the_same_wherever_the_bytes_are_parted(data: bytes, cuts: list[int]) -> None:
    """Requests, bodies and refusals depend on the bytes alone; nothing but a refusal is raised."""
    whole = read([data] if data else [])
    assert read(cut(data, cuts)) == whole
    assert read([bytes((one,)) for one in data]) == whole


@given(st.lists(CHUNKS, max_size=6).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
@example(b"4\r\n\r\n\r\n\r\n0\r\n\r\nGET", [])
@example(b"6\r\n0\r\n\r\n0\r\n0\r\nA: b\r\n\r\nGET", [2, 9])
def test_ends_chunked_bodies_where_llhttp_does(body: bytes, cuts: list[int]) -> None:
    """Wherever the bytes are parted, llhttp alone sees the same body and the same end, or refuses it too."""
    for parts in (cut(body, cuts), [body], [bytes((one,)) for one in body]):
        judge = Judge(body)
        parser = RequestParser()
        parser.add(CHUNKED)
        assert parser.read_head()
        found = b""
        try:
            for part in parts:
                parser.add(part)
                while parser.has_more and not parser.complete:
                    found += parser.read_body()
        except BadRequest:
            assert judge.fails
            assert not judge.complete
        else:
            assert (parser.complete, found) == (judge.complete, b"".join(judge.parts))
            assert parser.complete or not judge.fails
            if parser.complete:
                end = len(body) - len(parser.unread)
                assert Judge(body[:end]).complete
                assert not Judge(body[: end - 1]).complete


@given(st.lists(st.sampled_from(REQUESTS), max_size=8), st.lists(st.integers(0, 3000), max_size=6))
def test_reads_a_request_the_same_whatever_came_before_it(requests: list[bytes], cuts: list[int]) -> None:
    """Heads that come again mean what they meant to a new parser, and so do those behind them."""
    alone = [found for request in requests for found in read([request])]
    assert read(cut(b"".join(requests), cuts)) == alone
    assert read(requests) == alone


def test_takes_a_head_that_comes_again_as_it_was() -> None:
    parser = RequestParser()
    parser.add(POST)
    head = parser.read_head()
    assert parser.read_body() == b"abc"
    for body in (b"def", b"\r\n\r"):
        parser.next()
        parser.add(POST.replace(b"abc", body) + POST)
        assert parser.read_head() is head
        assert not parser.complete
        assert parser.read_body() == body
        assert parser.complete
        assert parser.unread == POST
        parser.next()
        assert parser.read_head() is head
        assert parser.read_body() == b"abc"


@pytest.mark.parametrize("request_", [CHUNKED + b"0\r\n\r\n", EXPECTING, LONG])
def test_keeps_no_head_that_costs_more_than_it_saves(request_: bytes) -> None:
    """Long ones would fill the memory, and others say more than what is in them."""
    parser = RequestParser()
    heads = []
    for _ in range(2):
        parser.add(request_)
        heads.append(parser.read_head())
        while not parser.complete:
            parser.read_body()
        parser.next()
    assert heads[0] == heads[1]
    assert heads[0] is not heads[1]


def test_skips_what_chunks_hold() -> None:
    """A body full of what looks like its end is taken in at once."""
    parser = RequestParser()
    parser.add(CHUNKED)
    assert parser.read_head()
    data = b"0\r\n\r\n" * 10_000
    parser.add(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
    assert parser.read_body() == data
    assert parser.complete
