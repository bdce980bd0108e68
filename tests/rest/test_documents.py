"""Stored messages in the JSON that the REST door and the AMQP RPC answer with."""

import json
from base64 import b64encode
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.messages import Message, Page, StoredMessage
from transports import documents
from transports.cloudevents import encode_event, format_time
from transports.documents import page_document

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KINDS = st.sampled_from(
    [
        ("application/json", b' {"a" :\t[1.50, "\xc3\xbc\\u00fc"]}\n'),
        ("application/vnd.x+json", b"null"),
        ("text/plain", b'\x00\x1f"\\/\x7f\xc3\xbc\xe2\x80\xa8\xf0\x9f\x98\x80'),
        ("text/plain; charset=latin1", b"\xfc"),
        ("application/octet-stream", bytes(range(256))),
    ]
)
STORED = st.builds(
    lambda kind, has_data, offset, **attributes: StoredMessage(
        "t.1",
        offset,
        attributes["time"],
        Message(content_type=kind[0], data=kind[1] if has_data else b"", **attributes),
    ),
    KINDS,
    st.booleans(),
    st.integers(1, 2**53 - 1),
    id=TEXT,
    source=TEXT,
    type=TEXT,
    subject=st.none() | TEXT,
    time=st.datetimes(timezones=st.just(UTC)),
    key=st.none() | TEXT,
    attributes=st.dictionaries(st.sampled_from(["dataschema", "traceparent", "x"]), TEXT),
)


def written_out(stored: StoredMessage) -> bytes:
    """The event, member by member."""
    message = stored.message
    members: dict[str, Any] = {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": message.type,
        "time": format_time(stored.time),
        "datacontenttype": message.content_type,
        "subject": message.subject,
        "partitionkey": message.key,
        **message.attributes,
        "topic": stored.topic,
        "offset": str(stored.offset),
    }
    if message.data and message.content_type == "text/plain":
        members["data"] = message.data.decode()
    pairs = [b"%b:%b" % (quoted(name), quoted(value)) for name, value in members.items() if value is not None]
    if message.data and message.content_type.endswith("json"):
        pairs.append(b'"data":' + message.data)
    elif message.data and message.content_type != "text/plain":
        pairs.append(b'"data_base64":"%b"' % b64encode(message.data))
    return b"{%b}" % b",".join(pairs)


def quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


@given(STORED)
def test_an_event_has_its_members_in_order(stored: StoredMessage) -> None:
    """Whether or not a message has what is optional, its event is the same to the byte, and its JSON data verbatim."""
    assert encode_event(stored) == written_out(stored)


@given(st.lists(STORED, min_size=1, max_size=4), st.integers(0, 1500))
def test_a_page_holds_the_events_that_fit(stored: list[StoredMessage], most: int) -> None:
    """Each is the one that is answered alone; what would pass the bound is left to the next page, but for the first."""
    events: list[bytes] = []
    for event in map(encode_event, stored):
        if events and sum(map(len, events)) + len(events) + len(event) + 1 > most:
            break
        events.append(event)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(documents, "PAGE_BYTES", most)
        found = page_document(Page(tuple(stored), stored[-1].offset))
    assert found == b'{"messages":[%b],"next":%d}' % (b",".join(events), stored[len(events) - 1].offset)
