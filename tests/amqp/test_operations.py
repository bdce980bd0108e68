"""The operations of RPC, without a broker."""

from time import process_time

import msgspec
import pytest

from core.errors import InvalidArgument
from core.service import LocalService
from core.settings import Settings
from core.telemetry.meter import Meter
from transports.amqp.operations import Operations


async def test_no_name_of_a_member_takes_long(service: LocalService, settings: Settings) -> None:
    """Whoever calls chooses it, and it stands in the text in which the place of a fault is looked for."""
    operations = Operations(Meter.of("amqp", settings), settings.limits)
    body = msgspec.json.encode({" - at `$" * 10_000 + "\n": 1})
    begun = process_time()
    with pytest.raises(InvalidArgument) as caught:
        await operations.call("GetData", service, body)
    assert process_time() - begun < 1
    assert caught.value.field == "body"
