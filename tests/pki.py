"""Certificates in a folder of a test's own, and clients that know them."""

import socket
import ssl
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from core.settings import Settings
from tools.certs import Authority, Pair

HOST = "127.0.0.1"


class Pki:
    """An authority `ours`, another that nobody trusts yet, and the files that a server is configured with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours = Authority.made("ours")
        self.other = Authority.made("other")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.ours.certificate)
        self.rotate()

    def rotate(self) -> int:
        """Put a new certificate in place of the server's; its serial number."""
        pair = self.ours.server("localhost", HOST)
        self.certificate, self.key = pair.write(self.folder, "server")
        return serial(pair)

    def settings(self, settings: Settings, *, mutual: bool = False, min_version: str = "1.3") -> Settings:
        return msgspec.structs.replace(
            settings,
            tls_cert=str(self.certificate),
            tls_key=str(self.key),
            tls_client_ca=str(self.ca) if mutual else "",
            tls_min_version=min_version,
        )

    def flags(self, *, mutual: bool = False) -> list[str]:
        found = [f"--tls-cert={self.certificate}", f"--tls-key={self.key}"]
        return [*found, f"--tls-client-ca={self.ca}"] if mutual else found

    def context(self, client: Pair | None = None) -> ssl.SSLContext:
        """A client that trusts `ours`, with a certificate if one is given."""
        context = ssl.create_default_context(cadata=self.ours.certificate.decode())
        if client is not None:
            context.load_cert_chain(*client.write(self.folder, "client"))
        return context


def resumed(context: ssl.SSLContext, port: int, session: Any, say: bytes) -> tuple[Any, bool | None]:
    """A new connection that tries to go on with `session`: its own session, and whether the server let it.

    It waits for something to come, since with TLS 1.3 a client hears only then that it is refused.
    """
    plain = socket.create_connection((HOST, port), timeout=30)
    with context.wrap_socket(plain, server_hostname=HOST, session=session) as connection:
        connection.sendall(say)
        if not connection.recv(65536):
            raise ConnectionResetError("closed without a word")
        return connection.session, connection.session_reused


def serial(pair: Pair) -> int:
    return serial_of(ssl.PEM_cert_to_DER_cert(pair.certificate.decode()))


def serial_of(der: bytes | None) -> int:
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number
