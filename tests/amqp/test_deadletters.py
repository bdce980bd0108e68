"""Dead letters, by confirms that a test gives."""

import asyncio
import gc
from asyncio import Future
from typing import Any

import pytest

from core.errors import InvalidArgument
from core.health import Health
from core.ports import Undeliverable
from core.settings import MEMORY, Settings
from tests.amqp.conftest import until
from transports.amqp.connection import Broker
from transports.amqp.deadletters import DeadLetters
from transports.amqp.frames import Delivery


async def test_a_burial_that_is_given_up_leaves_nothing_behind(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a confirm that is waited for nor a failure of which asyncio tells that nobody asked for it."""
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    monkeypatch.setattr(loop, "call_exception_handler", told.append)
    settings = Settings(data_dir=MEMORY)
    dead_letters = DeadLetters(Broker(settings, health), settings, "inbox")
    confirms: list[Future[None]] = []

    def publish(*_: Any) -> Future[None]:
        confirms.append(loop.create_future())
        return confirms[-1]

    dead_letters._outlet._open.set()
    dead_letters._outlet._link.flowing.set()
    monkeypatch.setattr(dead_letters._outlet, "publish", publish)
    burial = asyncio.create_task(dead_letters.bury([(Delivery(1, "", "", b"", b""), InvalidArgument("bad"))] * 2))
    await until(lambda: len(confirms) == 2)
    confirms[0].set_exception(Undeliverable("refused"))
    burial.cancel()
    await asyncio.wait({burial})
    assert confirms[1].cancelled()
    confirms.clear()
    del burial
    gc.collect()
    assert told == []
