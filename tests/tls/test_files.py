"""Certificates and keys that can't be served are problems of the settings."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from core.health import Health
from core.settings import InvalidSettings, Settings
from main import configure
from tests.e2e.process import ROOT
from tests.pki import Pki
from transports.tls.certificates import Certificates
from transports.tls.files import ServerFiles, Unusable, server_problems, stamp


def encrypted(key: Path) -> bytes:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


def expired(pki: Pki) -> None:
    pki.ours.server("localhost", days=-1).write(pki.folder, "server")


def a_folder(pki: Pki) -> None:
    pki.ca.unlink()
    pki.ca.mkdir()


#: What is done to good files, and the one problem that comes of it.
SPOILED: dict[str, tuple[Callable[[Pki], object], str]] = {
    "no certificate": (lambda pki: pki.certificate.unlink(), "tls_cert: can't read the file: No such file"),
    "no key": (lambda pki: pki.key.unlink(), "tls_key: can't read the file: No such file"),
    "no authorities": (lambda pki: pki.ca.unlink(), "tls_client_ca: can't read the file: No such file"),
    "a folder": (a_folder, "tls_client_ca: can't read the file: Is a directory"),
    "an empty certificate": (lambda pki: pki.certificate.write_bytes(b""), "tls_cert: holds no certificate in PEM"),
    "half a certificate": (
        lambda pki: pki.certificate.write_bytes(pki.certificate.read_bytes()[:200]),
        "tls_cert: holds no certificate in PEM",
    ),
    "no PEM in the key": (lambda pki: pki.key.write_bytes(b"\0\xff"), "tls_key: holds no private key in PEM"),
    "an encrypted key": (lambda pki: pki.key.write_bytes(encrypted(pki.key)), "tls_key: is encrypted"),
    "no PEM in the authorities": (lambda pki: pki.ca.write_bytes(b"x"), "tls_client_ca: holds no certificate in PEM"),
    "another's key": (
        lambda pki: pki.key.write_bytes(pki.other.pair.key),
        "tls_key: does not fit the first certificate of tls_cert",
    ),
    "an expired certificate": (expired, "tls_cert: has expired, on 20"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_files_that_can_not_be_served(pki: Pki, settings: Settings, health: Health, name: str) -> None:
    """The one problem names the setting."""
    spoil, expected = SPOILED[name]
    settings = pki.settings(settings, mutual=True)
    assert server_problems(settings) == []
    spoil(pki)
    [problem] = server_problems(settings)
    assert problem.startswith(expected)
    with pytest.raises(InvalidSettings) as caught:
        Certificates(settings, health)
    assert caught.value.problems == [problem]


def test_a_certificate_of_tomorrow(pki: Pki, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients would refuse it, so it is refused here."""
    monkeypatch.setattr("tools.certs._BEFORE", timedelta(days=-1))
    pki.rotate()
    [problem] = server_problems(pki.settings(settings))
    assert problem.startswith("tls_cert: is not valid before 20")


def test_all_problems_are_told_at_once(pki: Pki, settings: Settings) -> None:
    """One run is enough to mend a configuration."""
    for path in (pki.certificate, pki.key, pki.ca):
        path.unlink()
    problems = server_problems(pki.settings(settings, mutual=True))
    assert [problem.partition(":")[0] for problem in problems] == ["tls_cert", "tls_key", "tls_client_ca"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tls_cert": "x"}, ["tls_key: is missing beside tls_cert"]),
        ({"tls_key": "x"}, ["tls_key: takes tls_cert too"]),
        ({"tls_client_ca": "x"}, ["tls_client_ca: takes tls_cert too"]),
        ({}, []),
    ],
)
def test_settings_that_need_each_other(settings: Settings, given: dict[str, str], expected: list[str]) -> None:
    """Half a configuration does not pass for plain text."""
    assert server_problems(msgspec.structs.replace(settings, **given)) == expected


def test_a_key_in_place_of_its_name_is_not_printed(pki: Pki, settings: Settings) -> None:
    """As `TRIVIUM_TLS_KEY_FILE` would bring about, whose file holds the setting: a file's name."""
    secret = pki.key.read_text()
    [problem] = server_problems(msgspec.structs.replace(pki.settings(settings), tls_key=secret))
    assert problem == "tls_key: must name a file, and holds what should be in it"
    [problem] = server_problems(msgspec.structs.replace(pki.settings(settings), tls_key="hunter2\0"))
    assert "hunter2" not in problem


def test_they_are_problems_of_the_command_line(pki: Pki) -> None:
    """Told by `--check-config` too, with all others."""
    pki.key.unlink()
    with pytest.raises(InvalidSettings) as caught:
        configure([*pki.flags(), "--no-rest", "--no-grpc", "--no-amqp", "--check-config"], {})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["tls_key", "no door is enabled"]


def test_without_its_library_tls_is_a_problem(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named; without TLS nobody misses it."""
    monkeypatch.setattr("main._is_installed", lambda library: library != "cryptography")
    configure([], {})
    with pytest.raises(InvalidSettings) as caught:
        configure(pki.flags(), {})
    assert caught.value.problems == ["tls_cert: cryptography is not installed; install the extra `tls`"]


async def test_doors_without_tls_do_not_import_it() -> None:
    """It is an extra of its own, and costs memory and time."""
    doors = "import main, container, transports.rest.door, transports.grpc.door, transports.amqp.connection"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{doors}; import sys; sys.exit('cryptography' in sys.modules)"), cwd=ROOT
    )
    assert await process.wait() == 0


def test_the_whole_chain_is_served(pki: Pki, settings: Settings) -> None:
    """What follows the first certificate in the file goes to clients as well."""
    pki.certificate.write_bytes(pki.certificate.read_bytes() + pki.ours.certificate)
    assert ServerFiles.of(pki.settings(settings)).read().pair.chain.count(b"BEGIN") == 2


def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    """Kubernetes replaces the folder behind a link; no file in it is ever written to."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.key").write_text("same size")
    link = tmp_path / "data"
    link.symlink_to("first")
    before = stamp(str(link / "tls.key"))
    (tmp_path / "new").symlink_to("second")
    assert stamp(str(link / "tls.key")) == before
    (tmp_path / "new").replace(link)
    assert stamp(str(link / "tls.key")) != before


def test_a_file_that_is_away_is_a_change(tmp_path: Path) -> None:
    """And its return is another."""
    path = tmp_path / "tls.key"
    assert stamp(str(path)) == (None,)
    path.write_text("")
    assert stamp(str(path)) != (None,)


def test_reading_tells_all(pki: Pki, settings: Settings) -> None:
    """The text of the exception is what the log shows when a reload fails."""
    pki.certificate.unlink()
    pki.key.unlink()
    with pytest.raises(Unusable, match=r"tls_cert: .*; tls_key: "):
        ServerFiles.of(pki.settings(settings)).read()
