"""What it costs to know who asks, and to be watched."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from bench import programs
from bench.cases.rest import publish, under_wrk
from bench.contests import TRIVIUM, Case, Contestant, Work
from bench.figures import Target
from bench.ground import Ground
from bench.loads import Requests
from bench.servers import HOST, OURS, ROOT

KEY, TOKEN = "Trivium, with an API key", "Trivium, with an access token"
LOGGED, UNLOGGED = "Trivium, logs as shipped", "Trivium without logs"
SAMPLED_LOG, FULL_LOG = "Trivium, access log of 1%", "Trivium, access log of all"
UNWATCHED, TRACED = "Trivium without metrics", "Trivium, 1% of traces exported"
_ISSUER, _AUDIENCE = "https://issuer.example", "bench"
_POLICY = '[principals.bench]\npublish = ["#"]\nread = ["#"]\n[scopes.bench]\npublish = ["#"]\nread = ["#"]\n'
_GET = Requests(path="/api/data")

#: Given the data folder of a service that runs, and what it was started with: the credential to show.
Credential = Callable[[Path, ECKey], str]


def _guarded(requests: Requests, credential: Credential) -> Contestant:
    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        data, policy, jwks = ground.fresh("data"), ground.fresh("policy.toml"), ground.fresh("jwks.json")
        signing = ECKey.generate_key("P-256", {"kid": "bench", "use": "sig", "alg": "ES256"})
        policy.write_text(_POLICY)
        jwks.write_bytes(msgspec.json.encode(KeySet([signing]).as_dict(private=False)))
        start = programs.trivium(
            *("--no-amqp", "--auth=required", f"--policy={policy}"),
            *(f"--token-issuer={_ISSUER}", f"--token-audience={_AUDIENCE}", f"--token-jwks={jwks}"),
            folder=data,
        )
        with start(ground) as service:
            shown = msgspec.structs.replace(requests, credential=credential(data, signing))
            yield lambda seconds: under_wrk(ground, service, shown, connections=32, seconds=seconds)

    return contestant


def _key(data: Path, _: ECKey) -> str:
    command = [str(OURS), "main.py", "keys", "create", "bench", f"--data-dir={data}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _token(_: Path, signing: ECKey) -> str:
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "bench", "scope": "bench", "exp": int(time.time()) + 86_400}
    return jwt.encode({"alg": "ES256", "kid": "bench", "typ": "at+jwt"}, claims, signing)


def _open(requests: Requests, start: programs.Start = programs.ALONE) -> Contestant:
    @contextmanager
    def contestant(ground: Ground) -> Iterator[Work]:
        with start(ground) as service:
            yield lambda seconds: under_wrk(ground, service, requests, connections=32, seconds=seconds)

    return contestant


class _Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is told."""


@contextmanager
def _traced(ground: Ground) -> Iterator[Work]:
    """One in a hundred of the traces that begin here is exported, to a collector on the other core."""
    collector = ThreadingHTTPServer((HOST, 0), _Collector)
    serving = threading.Thread(target=collector.serve_forever, daemon=True)
    serving.start()
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{collector.server_port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)  # which the service takes along
    try:
        with programs.ALONE(ground) as service:
            for name in variables:
                del os.environ[name]
            yield lambda seconds: under_wrk(ground, service, publish(256), connections=32, seconds=seconds)
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        collector.shutdown()
        collector.server_close()
        serving.join()


def _identity(name: str, title: str, requests: Requests, unit: str) -> Case:
    return Case(
        name=name,
        title=title,
        unit=unit,
        slices=2,
        contestants={
            TRIVIUM: _open(requests),
            KEY: _guarded(requests, _key),
            TOKEN: _guarded(requests, _token),
        },
        targets=(
            Target(text="an API key costs at most 5%", ours=KEY, theirs=(TRIVIUM,), at_least=0.95),
            Target(text="an access token costs at most 15%", ours=TOKEN, theirs=(TRIVIUM,), at_least=0.85),
        ),
    )


_TELEMETRY = Case(
    name="telemetry",
    title="durable REST publish, 32 in flight, 256 B, watched and not",
    slices=2,
    contestants={
        TRIVIUM: _open(publish(256)),
        UNWATCHED: _open(publish(256), programs.UNWATCHED),
        TRACED: _traced,
    },
    targets=(
        Target(text="metrics cost at most 5%", ours=TRIVIUM, theirs=(UNWATCHED,), at_least=0.95),
        Target(text="1% of traces cost at most 5%", ours=TRACED, theirs=(TRIVIUM,), at_least=0.95),
    ),
)


def _logging(*arguments: str) -> Contestant:
    """At the level that is the default, which is less than the other cases let through, to a file."""
    return _open(publish(256), programs.trivium("--no-amqp", "--log-level=info", *arguments))


_LOGS = Case(
    name="logs",
    title="durable REST publish, 32 in flight, 256 B, with logs and without",
    slices=2,
    contestants={
        LOGGED: _logging(),
        UNLOGGED: _open(publish(256), programs.UNLOGGED),
        SAMPLED_LOG: _logging("--access-log=sampled"),
        FULL_LOG: _logging("--access-log=full"),
    },
    targets=(Target(text="logs cost at most 2%", ours=LOGGED, theirs=(UNLOGGED,), at_least=0.98),),
)

CASES = (
    _identity("identity-get", "`GET /api/data`, 32 connections, by who asks", _GET, "requests/s"),
    _identity("identity-publish", "durable REST publish, 32 in flight, 256 B, by who asks", publish(256), "messages/s"),
    _TELEMETRY,
    _LOGS,
)
