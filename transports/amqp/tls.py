"""TLS to the broker: whom we trust, and who we are."""

import ssl
from threading import Lock

import structlog

from core.settings import InvalidSettings, Settings
from transports.tls.files import CIPHERS, Stamp, Unusable, read_authorities, read_key_pair, stamp
from transports.tls.trust import trust_all_of_it

log = structlog.get_logger("trivium.amqp")


class BrokerTls:
    """The context of connections by `amqps`: the broker's certificate is verified, its host name included.

    Files that have changed are read again for the next connection. If they can't be used any more, that is told once
    and what they held before is used.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `InvalidSettings`."""
        if found := _contradictions(settings):
            raise InvalidSettings(found)
        self._authorities = settings.amqp_ca
        self._certificate, self._key = settings.amqp_cert, settings.amqp_key
        self._reading = Lock()
        self._seen = self._stamp()
        self._problem: str | None = None
        try:
            self._context = self._made()
        except Unusable as error:
            raise InvalidSettings(error.problems) from error

    def context(self) -> ssl.SSLContext:
        """For the next connection. Reads files: call it on a thread of its own, or of several."""
        with self._reading:
            seen = self._stamp()
            if seen == self._seen:
                return self._context
            try:
                self._context = self._made()
            except Unusable as error:
                if str(error) != self._problem:
                    log.error("new files for amqps can't be used, the old ones stay", reason=str(error))
                self._problem = str(error)
            else:
                self._seen, self._problem = seen, None
            return self._context

    def _stamp(self) -> Stamp:
        return stamp(self._authorities, self._certificate, self._key)

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # older Erlangs have no 1.3
        context.set_ciphers(CIPHERS)
        authorities = read_authorities("amqp_ca", self._authorities)
        if self._certificate:
            read_key_pair("amqp", self._certificate, self._key)
        try:
            if authorities is None:
                context.load_default_certs()
            else:
                trust_all_of_it(context)
                context.load_verify_locations(cadata=authorities.decode())
            if self._certificate:
                context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError) as error:
            raise Unusable([f"amqp_ca, amqp_cert: can't be used: {error.strerror}"]) from error
        return context


def problems(settings: Settings) -> list[str]:
    """What keeps `amqp_ca`, `amqp_cert` and `amqp_key` from being used."""
    try:
        BrokerTls(settings)
    except InvalidSettings as error:
        return error.problems
    return []


def _contradictions(settings: Settings) -> list[str]:
    """Tells nothing of the URL: it holds a password."""
    found: list[str] = []
    if not settings.amqp_url.startswith("amqps:"):
        given = [name for name in ("amqp_ca", "amqp_cert", "amqp_key") if getattr(settings, name)]
        found += [f"{name}: takes an amqp_url that begins with amqps://" for name in given]
    if bool(settings.amqp_cert) != bool(settings.amqp_key):
        there, missing = ("amqp_cert", "amqp_key") if settings.amqp_cert else ("amqp_key", "amqp_cert")
        found.append(f"{missing}: is missing beside {there}")
    if "ssl_options=" in settings.amqp_url:
        found.append("amqp_url: takes no ssl_options: use amqp_ca, amqp_cert and amqp_key")
    return found
