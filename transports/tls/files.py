"""Certificates and keys as they lie in files: read, and checked before anybody serves them."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from msgspec import Struct

from core.settings import Settings
from transports.tls.trust import trust_all_of_it

T = TypeVar("T")

#: Forward secret and authenticated. OpenSSL's own list for TLS 1.2 also has CBC modes; 1.3 has no weak ones.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Before it OpenSSL also offers groups (ffdhe8192) by which anybody can make us compute 5 ms for each handshake, at no
#: cost of their own. Python can't choose among groups, only name a single one.
_CHEAP_GROUPS = (3, 5)
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
#: What a private key in PEM begins with, if somebody gave the key in place of its file's name.
_PEM = "-----BEGIN"

#: When a file was last changed, and which it is: Kubernetes swaps a symbolic link, which leaves times alone.
Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


class Unusable(Exception):
    """What is wrong with the files. Each problem names the setting, and never what a file holds."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class KeyPair(Struct, frozen=True):
    """A certificate with its chain, and the key that fits it; in PEM."""

    chain: bytes
    key: bytes
    subject: str
    serial: int
    not_after: datetime


class ServerTls(Struct, frozen=True):
    """All that a server needs for a handshake; `client_ca` is None where clients need no certificate."""

    pair: KeyPair
    client_ca: bytes | None
    context: ssl.SSLContext


class ServerFiles(Struct, frozen=True):
    """The files of the doors that listen."""

    certificate: str
    key: str
    client_ca: str
    min_version: str

    @classmethod
    def of(cls, settings: Settings) -> "ServerFiles":
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.tls_min_version)

    def stamp(self) -> Stamp:
        return stamp(self.certificate, self.key, self.client_ca)

    def read(self) -> ServerTls:
        """Raises `Unusable`, with all problems."""
        if not self.key:
            raise Unusable(["tls_key: is missing beside tls_cert"])
        problems: list[str] = []
        pair = _attempt(problems, lambda: read_key_pair("tls", self.certificate, self.key))
        client_ca = _attempt(problems, lambda: read_authorities("tls_client_ca", self.client_ca))
        if pair is None or problems:
            raise Unusable(problems)
        try:
            context = self._context(client_ca)
        except (ssl.SSLError, OSError, ValueError) as error:  # a key that OpenSSL holds too short, as an example
            raise Unusable([f"tls_cert: can't be served: {_reason(error)}"]) from error
        return ServerTls(pair, client_ca, context)

    def _context(self, client_ca: bytes | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self.min_version]
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        if ssl.OPENSSL_VERSION_INFO < _CHEAP_GROUPS:
            context.set_ecdh_curve("prime256v1")  # the one that all clients have (RFC 8446, section 9.1)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(self.certificate, self.key, password="")  # OpenSSL would ask the terminal for one
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            trust_all_of_it(context)
            context.load_verify_locations(cadata=client_ca.decode())
        return context


def _attempt(problems: list[str], read: Callable[[], T]) -> T | None:
    """What `read` answers; None, and its problems added, if it can't."""
    try:
        return read()
    except Unusable as error:
        problems.extend(error.problems)
        return None


def stamp(*paths: str) -> Stamp:
    """Differs from an earlier one if a file was changed, replaced or removed."""
    found: list[tuple[int, ...] | None] = []
    for path in filter(None, paths):
        try:
            status = Path(path).stat()
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def server_problems(settings: Settings) -> list[str]:
    """What keeps `tls_*` from being used; nothing where TLS is off."""
    if not settings.tls_cert:
        given = [name for name in ("tls_key", "tls_client_ca") if getattr(settings, name)]
        return [f"{name}: takes tls_cert too" for name in given]
    try:
        ServerFiles.of(settings).read()
    except Unusable as error:
        return error.problems
    return []


def core_problems(settings: Settings) -> list[str]:
    """What keeps the files of `core_tls_*` from being used; both protocols read them again, and tell less of them."""
    problems: list[str] = []
    _attempt(problems, lambda: read_authorities("core_tls_ca", settings.core_tls_ca))
    if settings.core_tls_cert and settings.core_tls_key:
        _attempt(problems, lambda: read_key_pair("core_tls", settings.core_tls_cert, settings.core_tls_key))
    return problems


def read_key_pair(prefix: str, certificate: str, key: str) -> KeyPair:
    """The pair in the files of the settings `<prefix>_cert` and `<prefix>_key`. Raises `Unusable`."""
    of_certificate, of_key = f"{prefix}_cert", f"{prefix}_key"
    problems: list[str] = []
    chain = _attempt(problems, lambda: _contents(of_certificate, certificate))
    secret = _attempt(problems, lambda: _contents(of_key, key))
    if chain is None or secret is None:
        raise Unusable(problems)
    leaf = _certificates(of_certificate, chain)[0]
    private = _private(of_key, secret)
    try:
        fits = _public(leaf.public_key()) == _public(private.public_key())
        subject = leaf.subject.rfc4514_string()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unusable([f"{of_certificate}: holds what is not understood: {error}"]) from error
    if not fits:
        raise Unusable([f"{of_key}: does not fit the first certificate of {of_certificate}"])
    now = datetime.now(UTC)
    if leaf.not_valid_after_utc <= now:
        raise Unusable([f"{of_certificate}: has expired, on {leaf.not_valid_after_utc.isoformat()}"])
    if leaf.not_valid_before_utc > now:
        raise Unusable([f"{of_certificate}: is not valid before {leaf.not_valid_before_utc.isoformat()}"])
    return KeyPair(chain, secret, subject, leaf.serial_number, leaf.not_valid_after_utc)


def read_authorities(setting: str, path: str) -> bytes | None:
    """The certificates, in PEM, of a file of authorities; None if no file is set. Raises `Unusable`."""
    if not path:
        return None
    encoding = serialization.Encoding.PEM
    return b"".join(one.public_bytes(encoding) for one in _certificates(setting, _contents(setting, path)))


def _contents(setting: str, path: str) -> bytes:
    if path.startswith(_PEM):
        raise Unusable([f"{setting}: must name a file, and holds what should be in it"])
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # the name may be a secret that was put there by mistake
        raise Unusable([f"{setting}: can't read the file: {_reason(error)}"]) from error


def _certificates(setting: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Unusable([f"{setting}: holds no certificate in PEM"]) from error


def _private(setting: str, pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise Unusable([f"{setting}: is encrypted; give a key without a password, in a file of mode 0600"]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unusable([f"{setting}: holds no private key in PEM"]) from error


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "OpenSSL refuses it"
    return (error.strerror if isinstance(error, OSError) else None) or "it is not a file's name"
