"""Who shows a certificate is who the policy says."""

from pathlib import Path

import grpc.aio
import httpx2
import msgspec
import pytest

from container import Container
from core.settings import Settings
from main import running
from proto.trivium.v1 import messages_pb2 as pb
from proto.trivium.v1.messages_pb2_grpc import MessagesStub
from tests.pki import Pki

POLICY = """
[principals.shop]
read = ["orders.#"]
certificates = ["CN=shop"]
"""


@pytest.mark.parametrize(
    ("subject", "topic", "status", "code"),
    [
        ("shop", "orders.new", 200, grpc.StatusCode.OK),
        ("shop", "stock", 403, grpc.StatusCode.PERMISSION_DENIED),
        ("stranger", "orders.new", 401, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_the_subject_of_a_certificate_is_a_principal(
    settings: Settings, pki: Pki, tmp_path: Path, subject: str, topic: str, status: int, code: grpc.StatusCode
) -> None:
    """At both doors, with the rights that the policy has for it and no others."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    guarded = msgspec.structs.replace(
        pki.settings(settings, mutual=True), auth="required", policy=str(policy), amqp=False
    )
    client = pki.ours.client(subject)
    async with (
        running(Container(settings=guarded)) as up,
        httpx2.AsyncClient(base_url=up.doors["rest"].address, verify=pki.context(client), timeout=30) as http,
        grpc.aio.secure_channel(
            up.doors["grpc"].address,
            grpc.ssl_channel_credentials(pki.ours.certificate, client.key, client.certificate),
        ) as channel,
    ):
        assert (await http.get(f"/api/data?topic={topic}")).status_code == status
        call = MessagesStub(channel).GetData(pb.GetDataRequest(topic=topic))
        assert await call.code() is code
