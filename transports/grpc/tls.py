"""TLS of the gRPC door."""

from typing import TYPE_CHECKING, Any

import grpc

from transports.tls.clients import ClientCertificate, client_certificate

if TYPE_CHECKING:  # what they take is installed only where TLS is used
    from transports.tls.certificates import Certificates
    from transports.tls.files import ServerTls


def credentials(certificates: "Certificates") -> grpc.ServerCredentials:
    """For one port: each handshake gets the newest certificate."""
    given = certificates.current

    def newest() -> Any:
        """Called before each handshake, on threads of gRPC's, one at a time. None is for no change."""
        nonlocal given
        current = certificates.current
        if current is given:
            return None
        given = current
        return _configuration(current)

    asks_clients = given.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(given), newest, asks_clients)


def peer_names(context: "grpc.aio.ServicerContext[Any, Any]") -> ClientCertificate | None:
    """Whom the other end of a call has proved to be; None without TLS, or where none was asked for."""
    found = context.auth_context().get("x509_pem_cert")
    return client_certificate(next(iter(found))) if found else None


def _configuration(tls: "ServerTls") -> Any:
    return grpc.ssl_server_certificate_configuration([(tls.pair.key, tls.pair.chain)], tls.client_ca)
