"""A core over HTTP/1.1: one pool of connections per address, shared by all callers."""

import asyncio
import math
import ssl
from asyncio import Future
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from core import deadlines
from core.errors import DeadlineExceeded, TriviumError
from core.messages import Greeting, Message, Page, Published, StoredMessage, TopicPage
from core.remote.links import Unreachable
from core.settings import Settings
from transports.cloudevents import BATCH, STRUCTURED, encode_batch
from transports.rest import remote_documents as documents
from transports.tls.trust import trust_all_of_it

#: Connections beside those that followers and waiting reads take.
_CONNECTIONS = 1000
#: Under the 30 seconds after which the other side closes an idle connection.
_KEEP_ALIVE_SECONDS = 15.0
#: Followers ask for a page and wait for it. A core that has gone without a word is noticed after both of these.
_POLL_SECONDS = 10.0
_POLL_GRACE_SECONDS = 5.0
#: Messages of a follower's page: it holds one.
_POLL_MESSAGES = 100
#: Answers hold 3 MiB or one message; as much as over gRPC.
_ANSWER_BYTES = 16 * 1024 * 1024


class HttpLink:
    """`core.remote.links.Link` over HTTP."""

    def __init__(self, address: str, settings: Settings) -> None:
        """`address` is `http://host:port`, or `https://` for TLS."""
        self._base = URL(address)
        self._settings = settings

    async def __aenter__(self) -> Self:
        context = _tls(self._settings) if self._base.scheme == "https" else True
        connector = aiohttp.TCPConnector(
            limit=self._settings.max_streams + _CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=context
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `core.deadlines` ends what takes too long
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def on_behalf_of(self, authorization: str | None) -> "HttpCore":
        if authorization is not None:
            return HttpCore(self._session, self._base, {"authorization": authorization})
        key = self._settings.core_api_key
        return HttpCore(self._session, self._base, {"x-api-key": key} if key else {})

    async def probe(self) -> None:
        """Ask whether the process lives; whoever answers at all is there."""
        with suppress(TriviumError):
            await HttpCore(self._session, self._base, {}).ask("GET", "/livez")


class HttpCore:
    """The core at one address for one caller. Each call is one attempt within the deadline of its task."""

    def __init__(self, session: aiohttp.ClientSession, base: URL, headers: Mapping[str, str]) -> None:
        self._session = session
        self._base = base
        self._headers = headers

    async def get_data(self, topic: str | None = None) -> StoredMessage | Greeting:
        query = {} if topic is None else {"topic": topic}
        return documents.data(await self.ask("GET", "/api/data", query=query, headers={"accept": STRUCTURED}))

    def publish(self, topic: str, messages: Sequence[Message]) -> Future[tuple[Published, ...]]:
        return asyncio.ensure_future(self._publish(topic, messages))

    async def get_message(self, topic: str, offset: int) -> StoredMessage:
        return documents.stored(await self.ask("GET", f"/api/topics/{topic}/messages/{offset}"))

    async def read_messages(self, topic: str, *, after: int = 0, limit: int | None = None, wait: float = 0) -> Page:
        query = {"after": str(after)}
        if limit is not None:
            query["limit"] = str(limit)
        if wait:
            query["wait"] = f"{wait:.6f}"
        return documents.page(await self.ask("GET", f"/api/topics/{topic}/messages", query=query))

    async def follow(self, topic: str, after: int | None = None) -> AsyncGenerator[Page]:
        """By waiting reads: events would cost JSON data its line ends, and a stream holds a connection too."""
        page = Page((), await self._head(topic)) if after is None else await self.read_messages(topic, after=after)
        yield Page((), page.next if after is None else after)
        clock = asyncio.get_running_loop().time
        while True:
            if page.messages:
                yield page
            asked = clock()
            page = await self._wait(topic, page.next)
            if not page.messages and clock() < asked + _POLL_SECONDS / 2:
                return  # a core that is stopping lets those go who wait

    async def list_topics(self, *, after: str = "", limit: int | None = None) -> TopicPage:
        query = {"after": after} if limit is None else {"after": after, "limit": str(limit)}
        return documents.topics(await self.ask("GET", "/api/topics", query=query))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> documents.Response:
        """One request. Raises what the core answered, or `Unreachable`."""
        sent = {**self._headers, **(headers or {})}
        seconds = deadlines.remaining()
        if seconds is not None:
            sent["prefer"] = f"wait={math.ceil(seconds)}"  # RFC 7240, section 4.3
        try:
            async with self._session.request(
                method, self._base.with_path(path), params=query, headers=sent, data=body, allow_redirects=False
            ) as answer:
                response = documents.Response(answer.status, answer.headers, await _body(answer))
        except (aiohttp.ClientError, OSError, ValueError) as error:  # the last: a name that can't be one
            raise Unreachable(str(error) or type(error).__name__) from error
        if response.status >= 300:
            raise documents.error_of(response)
        return response

    async def _publish(self, topic: str, messages: Sequence[Message]) -> tuple[Published, ...]:
        answer = await self.ask(
            "POST",
            f"/api/topics/{topic}/messages",
            headers={"content-type": BATCH},
            body=encode_batch(messages),
        )
        return documents.published(answer)

    async def _head(self, topic: str) -> int:
        newest = await self.get_data(topic)
        return newest.offset if isinstance(newest, StoredMessage) else 0

    async def _wait(self, topic: str, after: int) -> Page:
        until = asyncio.get_running_loop().time() + _POLL_SECONDS + _POLL_GRACE_SECONDS
        try:
            async with deadlines.until(until):
                return await self.read_messages(topic, after=after, limit=_POLL_MESSAGES, wait=_POLL_SECONDS)
        except DeadlineExceeded as error:
            raise Unreachable("no answer in time") from error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > _ANSWER_BYTES:
            raise Unreachable(f"an answer of more than {_ANSWER_BYTES} bytes is none of a Trivium")
        pieces.append(piece)
    return b"".join(pieces)


def _tls(settings: Settings) -> ssl.SSLContext:
    """Raises `OSError` if a file can't be read or holds something else."""
    context = ssl.create_default_context(cafile=settings.core_tls_ca or None)
    if settings.core_tls_ca:
        trust_all_of_it(context)
    if settings.core_tls_cert:
        key = settings.core_tls_key or None
        context.load_cert_chain(settings.core_tls_cert, key, password="")  # OpenSSL would ask the terminal for one
    return context
