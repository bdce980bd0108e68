"""Certificates that change while they are served."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from core.health import Health, State
from core.settings import Settings
from tests.pki import Pki
from tests.tls.conftest import rotated, until
from transports.tls import certificates
from transports.tls.certificates import Certificates

#: What is logged of a pair that can't be used.
KEPT = "the new certificate can't be used, the old one stays"


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """What is logged."""
    with capture_logs() as found:
        yield found


def events(lines: list[EventDict]) -> list[str]:
    return [line["event"] for line in lines if not line["event"].startswith("part is")]


async def test_a_new_pair_is_taken(lines: list[EventDict], pki: Pki, served: Certificates, health: Health) -> None:
    """It is told, with what tells it from the one before."""
    number = await rotated(pki, served)
    assert events(lines) == ["certificate is loaded", "certificate is reloaded"]
    assert lines[-1]["serial"] == f"{number:x}"
    assert health.checks["tls"].state is State.OK
    assert f"{number:x}" in health.checks["tls"].detail
    assert lines[-1]["not_after"] == served.not_after.isoformat()


async def test_a_broken_pair_is_told_once(
    lines: list[EventDict], pki: Pki, served: Certificates, health: Health
) -> None:
    """The old one stays, and a good one after it is taken."""
    old = served.current
    for text in ("broken", "broken, but longer"):
        pki.key.write_text(text)
        await until(lambda: health.checks["tls"].state is State.DEGRADED)
    assert served.current is old
    await rotated(pki, served)
    assert events(lines).count(KEPT) == 1
    assert next(line for line in lines if "reason" in line)["reason"] == "tls_key: holds no private key in PEM"
    assert health.checks["tls"].state is State.OK


async def test_files_that_are_being_written_are_no_trouble(
    lines: list[EventDict], pki: Pki, served: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that comes before its key does not fit the old key, until the key has come."""
    looks = 0
    original = served._files.read

    pair = pki.ours.server("localhost")

    def reading() -> object:
        nonlocal looks
        looks += 1
        try:
            return original()
        finally:
            if looks == 1:
                pki.key.write_bytes(pair.key)

    monkeypatch.setattr("transports.tls.files.ServerFiles.read", lambda _: reading())
    pki.certificate.write_bytes(pair.certificate)
    await until(lambda: events(lines)[-1] == "certificate is reloaded")
    assert looks == 2
    assert events(lines) == ["certificate is loaded", "certificate is reloaded"]


async def test_a_read_across_a_change_is_read_again(
    pki: Pki, served: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that was replaced while it was read is not taken for the one in the file."""
    changes = [pki.rotate, pki.rotate]
    numbers: list[int] = []
    original = type(served._files).read

    def changing(files: object) -> object:
        found = original(files)  # type: ignore[arg-type]  # passed on
        if changes:
            numbers.append(changes.pop()())
        return found

    monkeypatch.setattr("transports.tls.files.ServerFiles.read", changing)
    pki.rotate()
    await until(lambda: not changes and served.current.pair.serial == numbers[-1])


async def test_kubernetes_swaps_a_link(pki: Pki, settings: Settings, health: Health, tmp_path: Path) -> None:
    """A secret's volume: the files are links through `..data`, which is replaced in one step."""
    volume = tmp_path / "volume"
    numbers = []
    for version in ("v1", "v2"):
        (volume / version).mkdir(parents=True)
        numbers.append(pki.rotate())
        pki.certificate.rename(volume / version / "tls.crt")
        pki.key.rename(volume / version / "tls.key")
    (volume / "..data").symlink_to("v1")
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    pki.certificate, pki.key = volume / "tls.crt", volume / "tls.key"
    async with Certificates(pki.settings(settings), health) as served:
        assert served.current.pair.serial == numbers[0]
        (volume / "..new").symlink_to("v2")
        (volume / "..new").replace(volume / "..data")
        await until(lambda: served.current.pair.serial == numbers[1])


async def test_what_is_asked_for_is_done_at_once(
    lines: list[EventDict], pki: Pki, served: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reload` reads files that did not change, and tells at once of those that are broken."""
    old = served.current
    served.reload()
    await until(lambda: served.current is not old)
    assert served.current.pair == old.pair
    monkeypatch.setattr(certificates, "_LOOK_SECONDS", 3600)
    served.reload()
    await until(lambda: events(lines).count("certificate is reloaded") == 2)
    pki.certificate.unlink()
    for times in (1, 2):
        served.reload()
        await until(lambda times=times: events(lines).count(KEPT) == times)  # type: ignore[misc]  # no type of a default


async def test_an_end_that_is_near_is_told(
    lines: list[EventDict], pki: Pki, settings: Settings, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a day, from 14 days before it on, until there is a new certificate."""
    pki.ours.server("localhost", days=13.5).write(pki.folder, "server")
    async with Certificates(pki.settings(settings), health) as served:
        assert events(lines) == ["certificate is loaded", "certificate ends soon"]
        assert lines[1]["days"] == 13
        assert [check.state for check in health.checks.values()] == [State.DEGRADED]
        assert health.ready
        assert served.not_after - datetime.now(UTC) < timedelta(days=13.5)
        monkeypatch.setattr(certificates, "_WARN_AGAIN", timedelta(0))
        served.reload()
        await until(lambda: events(lines).count("certificate ends soon") > 3)
        await rotated(pki, served)
        assert health.checks["tls"].state is State.OK
    told = len(lines)
    pki.ours.server("localhost", days=14.5).write(pki.folder, "server")
    async with Certificates(pki.settings(settings), health):
        assert events(lines[told:]) == ["certificate is loaded"]
