"""An issuer of access tokens, as a real HTTP server on loopback."""

import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec
from joserfc import jws
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

AUDIENCE = "https://trivium.example"
KEY_SET = "/keys"
OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"
Key = RSAKey | ECKey | OKPKey | OctKey


class AnyAlgorithm(JWSRegistry):
    """Signs whatever it is told to, without warnings."""

    def __init__(self) -> None:
        super().__init__(strict_check_header=False)

    def check_header(self, header: dict[str, Any]) -> None:
        """Everything goes."""

    def get_alg(self, name: str) -> Any:
        return next(one for one in JWS_ALGORITHMS if one.name == name)


@cache
def rsa(number: int = 0, bits: int = 2048) -> RSAKey:
    """Keys take long to make: a few, for all tests."""
    return RSAKey.generate_key(bits)


@cache
def ec(curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve)


@cache
def okp(curve: Any = "Ed25519") -> OKPKey:
    return OKPKey.generate_key(curve)


def public(key: Key, kid: str | None, **members: Any) -> dict[str, Any]:
    """As a member of a JWK Set."""
    found = {**key.as_dict(private=False), "kid": kid, **members}
    return {name: value for name, value in found.items() if value is not None}


def signed(header: dict[str, Any], payload: bytes, key: Key) -> str:
    """Any header over any payload."""
    return jws.serialize_compact(header, payload, key, registry=AnyAlgorithm())


class TestIssuer:
    """Serves its discovery document and its keys, and signs tokens."""

    __test__ = False

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [public(rsa(), "k1", alg="RS256", use="sig")]
        self.answers: dict[str, tuple[int, bytes]] = {}  # instead of the usual ones
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.held = threading.Event()  # answers wait for it
        self.held.set()
        self.on_keys_sent: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.held.wait(30)
                status, body = outer.answers.get(self.path) or outer._usual(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.path == KEY_SET:
                    outer.on_keys_sent()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def _usual(self, path: str) -> tuple[int, bytes]:
        if path == OPENID:
            return 200, msgspec.json.encode({"issuer": self.url, "jwks_uri": self.url + KEY_SET})
        if path == KEY_SET:
            return 200, msgspec.json.encode({"keys": self.keys})
        return 404, b""

    @property
    def looks(self) -> int:
        """How often somebody came for the keys."""
        return self.asked.count(KEY_SET)

    def away(self) -> None:
        """It answers, but tells nothing."""
        self.answers = dict.fromkeys((OPENID, OAUTH, KEY_SET), (503, b""))

    def back(self) -> None:
        self.answers = {}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token; None leaves one out."""
        now = int(time.time())
        found = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "shop",
            "client_id": "shop-client",
            "iat": now,
            "exp": now + 300,
            "jti": "t-1",
            "scope": "orders:read orders:write",
            **changes,
        }
        return {name: value for name, value in found.items() if value is not None}

    def token(
        self, key: Key | None = None, *, kid: Any = "k1", alg: str = "RS256", typ: Any = "at+jwt", **changes: Any
    ) -> str:
        """A token that is good but for the changes of its claims."""
        header = {"alg": alg, "typ": typ, "kid": kid}
        known = {name: value for name, value in header.items() if value is not None}
        return signed(known, msgspec.json.encode(self.claims(**changes)), key or rsa())

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
