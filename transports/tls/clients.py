"""Whom a client's certificate names."""

import asyncio
import ssl
from functools import lru_cache

from msgspec import Struct

#: Certificates that are remembered, of some two kilobytes each: a client sends the same one with every connection.
_REMEMBERED = 1024


class ClientCertificate(Struct, frozen=True):
    """A verified client certificate.

    `subject` is the distinguished name as RFC 4514 writes it, as `CN=orders,O=Example`; empty if there is none.
    `names` are its alternative names, as `DNS:orders.example.com` and `URI:spiffe://example.com/orders`: the prefix
    keeps a name of one kind from passing for one of another.
    """

    subject: str
    names: tuple[str, ...]

    @property
    def all_names(self) -> tuple[str, ...]:
        """As `core.gate.Credentials` has them: what the policy may know the client by."""
        return (self.subject, *self.names) if self.subject else self.names


def peer_names(transport: asyncio.BaseTransport | asyncio.StreamWriter) -> ClientCertificate | None:
    """Whom the other end of a TLS connection has proved to be; None without TLS, or where none was asked for."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    return client_certificate(der) if der else None


@lru_cache(_REMEMBERED)
def client_certificate(encoded: bytes) -> ClientCertificate:
    """What a certificate in DER or PEM says. It must have been verified: nothing is checked here."""
    from cryptography import x509  # installed only where TLS is used

    is_pem = encoded.startswith(b"-----BEGIN")
    certificate = (x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate)(encoded)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ClientCertificate(certificate.subject.rfc4514_string(), ())
    dns = [f"DNS:{name}" for name in found.get_values_for_type(x509.DNSName)]
    uris = [f"URI:{uri}" for uri in found.get_values_for_type(x509.UniformResourceIdentifier)]
    return ClientCertificate(certificate.subject.rfc4514_string(), (*dns, *uris))
