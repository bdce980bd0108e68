"""The certificates that the doors serve, kept up to date."""

import asyncio
import contextlib
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import structlog

from core.health import Health, State
from core.settings import InvalidSettings, Settings
from transports.tls.files import ServerFiles, ServerTls, Stamp, Unusable

log = structlog.get_logger("trivium.tls")

#: Between looks at the files: renewals come weeks before the end, and a person who replaces one wants to see it.
_LOOK_SECONDS = 1.0
_WARN = timedelta(days=14)
_WARN_AGAIN = timedelta(days=1)
#: gRPC's own variables; it reads them when it is imported.
_GRPC_CIPHERS, _GRPC_VERBOSITY = "GRPC_SSL_CIPHER_SUITES", "GRPC_VERBOSITY"
#: For TLS 1.2 alone, and of no use without a shared secret, which nobody has: nothing is left of TLS 1.2.
_NO_CIPHER = "ECDHE-PSK-CHACHA20-POLY1305"


class Certificates:
    """What the doors serve. It is read again when a file changes, or when it is asked for.

    Handshakes that begin after that get the new certificate and are held to the new authorities, and resume no
    session from before; connections that are open are left alone. A pair that can't be used is told once, and the
    one before it stays. The check `tls` tells what is served, and until when.
    """

    def __init__(self, settings: Settings, health: Health) -> None:
        """Raises `InvalidSettings`."""
        self._files = ServerFiles.of(settings)
        self._seen: Stamp = self._files.stamp()
        try:
            self.current: ServerTls = self._files.read()
        except Unusable as error:
            raise InvalidSettings(error.problems) from error
        self._health = health
        self._asked = asyncio.Event()
        self._problem: str | None = None
        self._warn_at = datetime.min.replace(tzinfo=UTC)
        self.context: ssl.SSLContext = _Newest(self)

    @property
    def not_after(self) -> datetime:
        """When the certificate that is served ends."""
        return self.current.pair.not_after

    def reload(self) -> None:
        """Have the files read again, changed or not. Returns at once; the log tells how it went."""
        self._asked.set()

    async def __aenter__(self) -> Self:
        self._tell("certificate is loaded")
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="certificates")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def wait(self) -> None:
        """Never returns; raises what ended the watch, which is a defect."""
        await asyncio.shield(self._task)

    async def _watch(self) -> None:
        doubt: str | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            seen = await asyncio.to_thread(self._files.stamp)
            if asked or seen != self._seen:
                self._seen = seen
                doubt = await self._load(asked=asked)
            elif doubt is not None:  # nothing changes any more, so this is how it is meant to be
                self._fail(doubt)
                doubt = None
            self._warn()

    async def _load(self, *, asked: bool) -> str | None:
        """Take what is in the files; the problem if it can't be used, which may be that they are being written."""
        try:
            found = await asyncio.to_thread(self._files.read)
        except Unusable as error:
            if not asked:
                return str(error)
            self._problem = None  # who asks is told, again if need be
            self._fail(str(error))
            return None
        if self._seen != await asyncio.to_thread(self._files.stamp):
            return "the files change while they are read"  # one may be of the old pair, and one of the new
        self.current = found
        self._problem = None
        self._warn_at = datetime.min.replace(tzinfo=UTC)
        self._tell("certificate is reloaded")
        return None

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            log.error("the new certificate can't be used, the old one stays", reason=problem)
        self._problem = problem
        self._report()

    def _tell(self, event: str) -> None:
        pair = self.current.pair
        log.info(event, subject=pair.subject, serial=f"{pair.serial:x}", not_after=pair.not_after.isoformat())
        self._warn()
        self._report()

    def _warn(self) -> None:
        now = datetime.now(UTC)
        if self.not_after - now > _WARN or now < self._warn_at:
            return
        self._warn_at = now + _WARN_AGAIN
        log.warning("certificate ends soon", not_after=self.not_after.isoformat(), days=(self.not_after - now).days)
        self._report()

    def _report(self) -> None:
        ends_soon = self.not_after - datetime.now(UTC) <= _WARN
        served = f"certificate {self.current.pair.serial:x} is valid until {self.not_after.isoformat()}"
        detail = f"{self._problem}; {served}" if self._problem else served
        self._health.report("tls", State.DEGRADED if self._problem or ends_soon else State.OK, detail)


class _Newest(ssl.SSLContext):
    """Hands each handshake to the newest context. Servers hold on to the one they were started with, and one that
    lives could get a new certificate, but not be rid of an authority, nor of the sessions that it granted.
    """

    def __new__(cls, certificates: Certificates) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio and uvloop when a handshake begins."""
        return self._certificates.current.context.wrap_bio(*arguments, **options)


def hold_grpc_to(min_version: str) -> None:
    """Have gRPC refuse older versions of TLS. It must not have been imported yet, or takes TLS 1.2, as it tells.

    Its Python API has no setting for it (grpc/grpc#37305). There is a variable with the ciphers of TLS 1.2, which must
    not be empty; so it gets one that no handshake can end in. Those of TLS 1.3 are fixed, and all of them strong.
    """
    os.environ.setdefault(_GRPC_VERBOSITY, "ERROR")  # or every port scan writes lines to stderr
    if min_version != "1.3" or os.environ.get(_GRPC_CIPHERS) == _NO_CIPHER:
        return
    if "grpc" in sys.modules:
        log.warning("gRPC takes TLS 1.2 too: it was imported before Trivium could forbid it")
        return
    os.environ[_GRPC_CIPHERS] = _NO_CIPHER
