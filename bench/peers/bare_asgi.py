"""No framework: what a server costs by itself."""

import json

from bench.peers.document import DOCUMENT


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = json.dumps(DOCUMENT, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
