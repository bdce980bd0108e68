"""TLS on the link, and whose credential goes over it."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from core.messages import Greeting
from core.remote.links import Unreachable
from core.settings import Settings, load
from proto.trivium.v1 import messages_pb2 as pb
from tests.remote.conftest import PROTOCOLS, Core, start_edge
from tests.remote.proxy import Proxy
from transports.grpc.remote import GrpcLink
from transports.rest.remote import HttpLink

ROOT = Path(__file__).parents[2]


class Certificates:
    """A certificate of its own authority for 127.0.0.1, used by both sides."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = str(folder / "cert.pem"), str(folder / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=trivium", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        subprocess.run([*command, "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)

    def issued(self, folder: Path) -> Path:
        """Another with the same key, of which this one is the authority."""
        request, names, issued = folder / "issued.csr", folder / "names", folder / "issued.pem"
        names.write_text("subjectAltName=IP:127.0.0.1\n")
        command = ["openssl", "req", "-new", "-key", self.key, "-subj", "/CN=core", "-out", str(request)]
        subprocess.run(command, check=True, capture_output=True)
        command = ["openssl", "x509", "-req", "-CA", self.certificate, "-CAkey", self.key, "-set_serial", "2"]
        command += ["-days", "2", "-extfile", str(names), "-in", str(request), "-out", str(issued)]
        subprocess.run(command, check=True, capture_output=True)
        return issued

    def server(self, *, mutual: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.certificate)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    try:
        yield Certificates(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("openssl is not installed")


def secure(protocol: str, proxy: Proxy) -> str:
    return f"{'grpcs' if protocol == 'grpc' else 'https'}://{proxy.address}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mutual", [False, True])
async def test_a_link_may_be_encrypted(
    core: Core, stack: AsyncExitStack, certificates: Certificates, protocol: str, mutual: bool
) -> None:
    """With the authority that the settings name, and a certificate of the edge where the core wants one."""
    tls = certificates.server(mutual=mutual)
    proxy = await stack.enter_async_context(Proxy(core.proxy(protocol).target, tls=tls))
    own = {"core_tls_cert": certificates.certificate, "core_tls_key": certificates.key} if mutual else {}
    edge = await start_edge(stack, secure(protocol, proxy), core_tls_ca=certificates.certificate, **own)
    assert isinstance(await edge.service.get_data("t"), Greeting)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trusted", ["authority", "core"])
async def test_a_link_trusts_what_the_file_holds(
    core: Core, stack: AsyncExitStack, certificates: Certificates, tmp_path: Path, protocol: str, trusted: str
) -> None:
    """An authority as openssl makes them, or the certificate of the core: over both protocols, on every Python."""
    issued = certificates.issued(tmp_path)
    tls = certificates.server(mutual=False)
    tls.load_cert_chain(issued, certificates.key)
    proxy = await stack.enter_async_context(Proxy(core.proxy(protocol).target, tls=tls))
    authority = certificates.certificate if trusted == "authority" else str(issued)
    edge = await start_edge(stack, secure(protocol, proxy), core_tls_ca=authority)
    assert isinstance(await edge.service.get_data("t"), Greeting)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("lacks", ["authority", "certificate"])
async def test_a_link_that_can_not_be_trusted_is_not_used(
    core: Core, stack: AsyncExitStack, certificates: Certificates, protocol: str, lacks: str
) -> None:
    """A core of an unknown authority, or an edge without the certificate that the core wants, is unreachable."""
    tls = certificates.server(mutual=lacks == "certificate")
    proxy = await stack.enter_async_context(Proxy(core.proxy(protocol).target, tls=tls))
    settings = Settings(core_tls_ca="" if lacks == "authority" else certificates.certificate)
    kind: Any = GrpcLink if protocol == "grpc" else HttpLink
    async with kind(secure(protocol, proxy), settings) as link:
        with pytest.raises(Unreachable):
            await link.probe()


def test_a_key_with_a_password_is_an_error(certificates: Certificates, tmp_path: Path) -> None:
    """Nobody is asked for it at the terminal."""
    key = str(tmp_path / "key.pem")
    command = ["openssl", "pkey", "-in", certificates.key, "-aes256", "-passout", "pass:secret", "-out", key]
    subprocess.run(command, check=True, capture_output=True)
    settings = f"Settings(core_tls_cert={certificates.certificate!r}, core_tls_key={key!r})"
    program = f"from core.settings import Settings; from transports.rest.remote import _tls; _tls({settings})"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, start_new_session=True, check=False)
    assert ended.returncode == 1
    assert b"pass phrase" not in ended.stderr
    assert b"SSLError" in ended.stderr


class Listener:
    """Remembers the headers or metadata of what it is asked."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        self.heard.append(dict(line.lower().split(": ", 1) for line in head))
        body = b'{"message":"hello","topic":"t","offset":0}'
        head_out = (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        writer.write(head_out % len(body) + body)
        writer.close()

    async def get_data(self, _: bytes, context: Any) -> bytes:
        self.heard.append({name: str(value).lower() for name, value in context.invocation_metadata()})
        return pb.GetDataResponse(greeting="hello").SerializeToString()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_callers_credential_goes_along(stack: AsyncExitStack, protocol: str) -> None:
    """As it came, and nobody else's; the key of the link only for callers that have none."""
    listener = Listener()
    settings = Settings(core_api_key="Link-Key")
    link: Any
    if protocol == "grpc":
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(listener.get_data)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("trivium.v1.Messages", {"GetData": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        link = GrpcLink(f"grpc://127.0.0.1:{port}", settings)
    else:
        web = await stack.enter_async_context(await asyncio.start_server(listener.http, "127.0.0.1", 0))
        link = HttpLink(f"http://127.0.0.1:{web.sockets[0].getsockname()[1]}", settings)
    await stack.enter_async_context(link)
    await link.on_behalf_of("Bearer Anna").get_data("t")
    await link.on_behalf_of(None).get_data("t")
    anna, nobody = ({name: one.get(name) for name in ("authorization", "x-api-key")} for one in listener.heard)
    assert anna == {"authorization": "bearer anna", "x-api-key": None}
    assert nobody == {"authorization": None, "x-api-key": "link-key"}


def test_the_key_of_the_link_may_be_in_a_file(tmp_path: Path) -> None:
    """As every secret."""
    (tmp_path / "key").write_text("trv_secret\n")
    assert load({}, {"TRIVIUM_CORE_API_KEY_FILE": str(tmp_path / "key")}).core_api_key == "trv_secret"
