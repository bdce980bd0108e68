"""The parser of HTTP/1.1, fed with what nobody would send."""

from itertools import pairwise

from hypothesis import given
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
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parts = [data[begin:end] for begin, end in pairwise(places) if begin < end]
    whole = read([data] if data else [])
    assert read(parts) == whole
    assert read([bytes((one,)) for one in data]) == whole
