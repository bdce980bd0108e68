"""REST, gRPC and the socket are three ways to the same keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from container import Container
from core.administration import KeyInfo, KeyService, all_keys
from core.errors import Conflict, InvalidArgument, NotFound, TriviumError
from core.keys import LIVE_KEYS
from core.settings import Settings
from main import running
from tests.keys.clients import GrpcKeys, RestKeys
from transports.control.client import RemoteKeys


class Step(NamedTuple):
    """One call through one way: `create` for a principal, or `revoke` of a key counted from the first.

    The first is the one that the doors are asked with, and stands for one that does not exist.
    """

    way: int
    action: str
    principal: str
    days: float | None
    place: int


PRINCIPALS = tuple("abcdef")
STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 2),
        st.sampled_from(["create", "create", "revoke"]),
        st.sampled_from([*PRINCIPALS, "stranger"]),
        st.sampled_from([None, 1, 90.5, 0, -1, 1e6]),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=12,
)
EXAMPLES = settings(
    max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
async def ways(tmp_path: Path) -> AsyncIterator[list[KeyService]]:
    """Each as somebody who may administer."""
    policy = "".join(f"[principals.{name}]\n" for name in PRINCIPALS) + '[principals.boss]\nadmin = ["#"]'
    (tmp_path / "policy.toml").write_text(policy)
    wanted = Settings(
        data_dir=str(tmp_path / "data"), policy=str(tmp_path / "policy.toml"), auth="required", amqp=False,
        rest_port=0, grpc_port=0,
    )  # fmt: skip
    async with running(Container(settings=wanted)) as up:
        socket = RemoteKeys(tmp_path / "data")
        await socket.connect()
        key = (await socket.create_key("boss")).key
        async with (
            httpx2.AsyncClient(base_url=up.doors["rest"].address, timeout=60) as http,
            grpc.aio.insecure_channel(up.doors["grpc"].address) as channel,
        ):
            yield [socket, RestKeys(http, key), GrpcKeys(channel, key)]
        socket.close()


async def listed(keys: KeyService, limit: int) -> list[KeyInfo]:
    """All keys, in pages of `limit`; without the use that asking for them is."""
    found: list[KeyInfo] = []
    after: str | None = ""
    while after is not None:
        page = await keys.list_keys(after=after, limit=limit)
        assert len(page.keys) == limit or page.next is None
        found += page.keys
        after = page.next
    return [
        KeyInfo(id=k.id, principal=k.principal, created=k.created, expires=k.expires, revoked=k.revoked) for k in found
    ]


async def take(step: Step, ways: Sequence[KeyService], known: list[KeyInfo]) -> None:
    """Take a step; what it answers must be what the keys that are `known` ask for."""
    way = ways[step.way]
    if step.action == "revoke":
        id_ = known[step.place].id if 0 < step.place < len(known) else "none"
        ended = await outcome(way.revoke_key(id_))
        assert ended is NotFound if id_ == "none" else isinstance(ended, KeyInfo) and ended.revoked
        return
    live = [key for key in known if key.principal == step.principal and key.revoked is None]
    made = await outcome(way.create_key(step.principal, step.days))
    if step.principal == "stranger" or (step.days is not None and not 0 < step.days <= 36_500):
        assert made is InvalidArgument
    elif len(live) >= LIVE_KEYS:
        assert made is Conflict
    else:
        assert not isinstance(made, type), made


async def outcome(call: Awaitable[object]) -> object:
    """What a call answers, or the kind of error that it raises."""
    try:
        return await call
    except TriviumError as error:
        return type(error)


async def test_all_ways_agree(ways: list[KeyService]) -> None:
    """Whatever is made or revoked through one of them, all tell the same of every key, in the same order."""
    loop = asyncio.get_running_loop()

    async def walk(steps: list[Step]) -> None:
        known = await listed(ways[0], 1000)
        for step in steps:
            await take(step, ways, known)
            known, *others = [await listed(way, limit) for way, limit in zip(ways, (1000, 7, 3), strict=True)]
            assert others == [known, known]

    @EXAMPLES
    @given(STEPS)
    def agree(steps: list[Step]) -> None:
        asyncio.run_coroutine_threadsafe(walk(steps), loop).result()

    await asyncio.to_thread(agree)
    assert len([key async for key in all_keys(ways[0])]) > 2 * LIVE_KEYS


@pytest.mark.parametrize("way", [0, 1, 2], ids=["socket", "rest", "grpc"])
async def test_bad_pages_are_refused(ways: list[KeyService], way: int) -> None:
    """With the field at fault."""
    for limit in (0, 1001, -1):
        with pytest.raises(InvalidArgument) as refused:
            await ways[way].list_keys(limit=limit)
        assert refused.value.field == "limit"
    with pytest.raises(InvalidArgument) as refused:
        await ways[way].list_keys(after="nobody")
    assert refused.value.field == "after"
