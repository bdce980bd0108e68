"""Edges whose core is killed, frozen, half closed and slow."""

from pathlib import Path

import pytest

from tests.e2e.edges import Plan, run


@pytest.mark.timeout(240)
async def test_clients_of_an_edge_lose_nothing(tmp_path: Path) -> None:
    """Nothing acknowledged is lost or there twice, order is kept, no stream has a gap; SIGTERM ends edges with 0."""
    plan = Plan(
        kills=2, down_seconds=2.0, frozen_seconds=1.0, half_closed_seconds=1.0, trickle_seconds=1.0, messages_between=50
    )
    figures = await run(plan, tmp_path)
    print("\n".join(figures.lines()))
    assert figures.oldest_seconds <= 60
