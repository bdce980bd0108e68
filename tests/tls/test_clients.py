"""Who a client is by its certificate."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.pki import Pki
from transports.tls.clients import ClientCertificate, client_certificate


def test_the_subject_and_the_names(pki: Pki) -> None:
    """The same from PEM, as gRPC has it, and from DER, as Python has it."""
    pair = pki.ours.client("orders", "orders.example", "spiffe://example/orders", "10.0.0.1")
    expected = ClientCertificate("CN=orders", ("DNS:orders.example", "URI:spiffe://example/orders"))
    der = x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)
    assert client_certificate(pair.certificate) == client_certificate(der) == expected


def test_a_certificate_without_names(pki: Pki) -> None:
    """The subject is enough."""
    assert client_certificate(pki.ours.client("orders").certificate) == ClientCertificate("CN=orders", ())


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a,O=admin", r"CN=a\,O=admin"),
        ("a+OU=b", r"CN=a\+OU=b"),
        (" a ", r"CN=\ a\ "),
        ("#a", r"CN=\#a"),
        ('a"\\<>;', r"CN=a\"\\\<\>\;"),
        ("ä", "CN=ä"),
    ],
)
def test_a_subject_is_escaped(pki: Pki, name: str, written: str) -> None:
    """No name can pass for two (RFC 4514, section 2.4)."""
    assert client_certificate(pki.ours.client(name).certificate).subject == written


def test_the_most_specific_name_comes_first(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4514 turns the order of the certificate round (section 2.1)."""
    parts = [(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COMMON_NAME, "orders")]
    whole = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
    monkeypatch.setattr("tools.certs._common_name", lambda _: whole)
    assert client_certificate(pki.ours.client("orders").certificate).subject == "CN=orders,O=Example,C=DE"
