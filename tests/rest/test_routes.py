"""How the router finds what answers."""

import weakref
from typing import Any

import pytest

from transports.rest.door import RestDoor


class Path(str):
    """One that can be seen to go."""


@pytest.mark.parametrize(("length", "is_kept"), [(10, True), (1000, False)])
async def test_remembers_short_paths_alone(door: RestDoor, length: int, is_kept: bool) -> None:
    """A client can name any number of topics of any length, and must not fill memory with them."""
    path = Path(f"/api/topics/{'t' * length}/messages")
    seen = weakref.ref(path)
    scope: dict[str, Any] = {"path": path}
    door.intake._app(scope, None, None).close()  # type: ignore[arg-type,attr-defined]  # nothing is asked of it
    assert scope["path_params"] == {"topic": "t" * length}
    scope.clear()
    del path
    assert (seen() is not None) is is_kept
