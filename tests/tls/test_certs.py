"""`make certs`."""

import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from core.settings import Settings
from main import configure
from tools.certs import main
from transports.tls.files import ServerFiles


def test_certificates_for_development(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flags that are printed configure a server; a second run renews everything but the authority."""
    folder = tmp_path / "certs"
    monkeypatch.setattr(sys, "argv", ["certs", f"--folder={folder}", "--client=me", "one.example", "10.0.0.1"])
    assert main() == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = [word for line in capsys.readouterr().out.splitlines()[:2] for word in line.partition(":")[2].split()]
    settings, _ = configure([*flags, "--no-amqp"], {})
    assert isinstance(settings, Settings)
    assert ServerFiles.of(settings).read().pair.subject == "CN=one.example"
    assert main() == 0
    renewed = {name for name, content in first.items() if (folder / name).read_bytes() != content}
    assert renewed == {"server.pem", "server.key", "client.pem", "client.key"}
    assert first.keys() - renewed == {"ca.pem", "ca.key"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {modes[name] for name in modes if name.endswith(".key")} == {0o600}


def test_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict verifiers take them: each says what it is for, and no longer than they allow."""
    monkeypatch.setattr(sys, "argv", ["certs", f"--folder={tmp_path}"])
    main()
    authority, server = (x509.load_pem_x509_certificate((tmp_path / f"{n}.pem").read_bytes()) for n in ("ca", "server"))
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days <= 200
    trust = Store([authority])
    verifier = PolicyBuilder().store(trust).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(server, []) == [server, authority]
