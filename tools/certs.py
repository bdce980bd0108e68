"""Certificates for development and tests, from an authority of their own that no system trusts.

    python -m tools.certs [--folder certs] [--client NAME] [NAME...]

makes the authority once, and at each run a fresh server certificate for the names and addresses given, and a client's.
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: The most that today's clients take of a server (CA/Browser Forum, ballot SC-081) until 2027.
_LEAF_DAYS = 200
_AUTHORITY_DAYS = 3650
#: For clocks that run behind.
_BEFORE = timedelta(hours=1)


class Pair(NamedTuple):
    """A certificate and its key, both in PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Put it into `folder` as NAME.pem and NAME.key, each replaced at once; only the owner can read the key."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        _replace(certificate, self.certificate, 0o644)
        _replace(key, self.key, 0o600)
        return certificate, key


class Authority:
    """Signs certificates."""

    def __init__(self, pair: Pair) -> None:
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the authority's key is none of ours")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        self.pair = pair

    @classmethod
    def made(cls, name: str = "Trivium development authority") -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common_name(name)
        builder = _unsigned(subject, key, subject, _AUTHORITY_DAYS).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(_pair(builder.sign(key, hashes.SHA256()), key))

    @classmethod
    def kept(cls, folder: Path) -> Self:
        """The one in `folder`, made if there is none."""
        try:
            return cls(Pair((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()))
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = cls.made()
            made.pair.write(folder, "ca")
            return made

    @property
    def certificate(self) -> bytes:
        """In PEM."""
        return self.pair.certificate

    def server(self, *names: str, days: float = _LEAF_DAYS) -> Pair:
        """A certificate for DNS names and IP addresses; with negative `days` it has expired."""
        return self._issue(_common_name(names[0]), names, ExtendedKeyUsageOID.SERVER_AUTH, days)

    def client(self, name: str, *names: str, days: float = _LEAF_DAYS) -> Pair:
        """A certificate with that common name; `names` are DNS names and URIs beside it."""
        return self._issue(_common_name(name), names, ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _issue(self, subject: x509.Name, names: tuple[str, ...], use: x509.ObjectIdentifier, days: float) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _unsigned(subject, key, self._certificate.subject, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def _unsigned(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - _BEFORE)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return Pair(certificate.public_bytes(encoding), private)


def _replace(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=mode)
    new.write_bytes(content)
    new.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.certs", description="Makes certificates for development.")
    parser.add_argument("--folder", type=Path, default=Path("certs"), help="keeps the authority between runs")
    parser.add_argument("--client", default="developer", metavar="NAME", help="common name of the client")
    parser.add_argument("names", nargs="*", default=["localhost", "127.0.0.1", "::1"], metavar="NAME")
    options = parser.parse_args()
    folder: Path = options.folder
    authority = Authority.kept(folder)
    authority.server(*options.names).write(folder, "server")
    authority.client(options.client).write(folder, "client")
    print(f"Serve TLS:            --tls-cert {folder}/server.pem --tls-key {folder}/server.key")
    print(f"Ask for certificates: --tls-client-ca {folder}/ca.pem")
    print(
        f"A client:             curl --cacert {folder}/ca.pem --cert {folder}/client.pem --key {folder}/client.key \\"
    )
    print(f"                           https://{options.names[0]}:8080/api/data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
