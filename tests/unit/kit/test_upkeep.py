"""What status tells beside the services: backups, the certificate, plain HTTP, the release."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llamakit.cli import main
from llamakit.services.certificate_end import CertificateUnreadable, certificate_end
from llamakit.services.upkeep import read_upkeep

NOW = datetime(2026, 5, 2, 12, 0, 0, tzinfo=UTC)


def host(**more: Any) -> dict[str, Any]:
    return {"manager": "systemd-system", "unit_prefix": "llamakit-", "place": "host", **more}


def make_certificate(folder: Path, days: int, *more: str) -> Path:
    file = folder / "certificate"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-subj", "/CN=gpu01"]
    command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-days", str(days), *more]
    command += ["-keyout", str(folder / "key"), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file


def openssl_end(file: Path) -> datetime:
    command = ["openssl", "x509", "-in", str(file), "-noout", "-enddate"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    end = said.strip().removeprefix("notAfter=").removesuffix(" GMT")
    return datetime.strptime(end, "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)


@pytest.mark.parametrize("days", [1, 825, 20_000])
def test_the_end_of_a_certificate_is_what_openssl_says(tmp_path: Path, days: int) -> None:
    # 20,000 days lead beyond 2050, where another form of time is used.
    file = make_certificate(tmp_path, days, "-addext", "subjectAltName=DNS:gpu01,IP:192.0.2.1")
    assert certificate_end(file) == openssl_end(file)


def test_of_a_chain_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, signer = make_certificate(tmp_path, 10), make_certificate(tmp_path / "other", 900)
    chain = tmp_path / "chain"
    chain.write_text("subject: text before it\n" + first.read_text() + signer.read_text())
    assert certificate_end(chain) == openssl_end(first)


def test_what_is_no_certificate_is_told(tmp_path: Path) -> None:
    file = make_certificate(tmp_path, 10)
    lines = file.read_text().splitlines()
    damaged = "\n".join([*lines[:2], lines[-1]])
    for text in ("", "hello", (tmp_path / "key").read_text(), damaged):
        file.write_text(text)
        with pytest.raises(CertificateUnreadable):
            certificate_end(file)
        (warning,) = read_upkeep(host(tls_certificate=str(file))).warnings
        assert "can't be read" in warning
    (warning,) = read_upkeep(host(tls_certificate=str(tmp_path / "none"))).warnings
    assert "No such file" in warning


def test_a_certificate_that_ends_soon_warns(tmp_path: Path) -> None:
    file = make_certificate(tmp_path, 30)
    end = certificate_end(file)

    def at(days: float) -> tuple[int | None, tuple[str, ...]]:
        found = read_upkeep(host(tls_certificate=str(file)), end - timedelta(days=days))
        return found.certificate_days, found.warnings

    assert at(20) == (20, ())
    days, (warning,) = at(5.5)
    assert days == 5
    assert "ends in 5 days" in warning
    days, (warning,) = at(-2)
    assert days == -2
    assert "has ended 2 days ago" in warning


def test_the_last_backup_is_the_newest_finished_one(tmp_path: Path) -> None:
    for name in (
        "llamakit-20260501T020000Z.dump",
        "llamakit-20260502T020000Z.dump",
        ".llamakit-20260502T110000Z.part",
        "llamakit-20260502T110000Z.dump.old",
    ):
        (tmp_path / name).write_bytes(b"x")
    found = read_upkeep(host(backups_dir=str(tmp_path)), NOW)
    assert found.backup == str(tmp_path / "llamakit-20260502T020000Z.dump")
    assert found.backup_age_seconds == 10 * 3600
    assert found.warnings == ()
    (warning,) = read_upkeep(host(backups_dir=str(tmp_path)), NOW + timedelta(hours=17)).warnings
    assert "27:00:00 old" in warning


def test_no_backup_warns_on_a_host_alone(tmp_path: Path) -> None:
    (warning,) = read_upkeep(host(backups_dir=str(tmp_path / "none")), NOW).warnings
    assert "no backup yet" in warning
    state = {"place": "local", "backups_dir": str(tmp_path)}
    assert read_upkeep(state, NOW).warnings == ()
    assert read_upkeep(host(backups_dir=None), NOW).warnings == ()


def test_status_tells_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "services.d").mkdir()
    release = tmp_path / "releases" / "4f1d"
    release.mkdir(parents=True)
    (tmp_path / "current").symlink_to(release)
    state = host(
        proxy_url="http://192.0.2.1:8001",
        logs_dir="",
        plain_http_on_network=True,
        current=str(tmp_path / "current"),
        backups_dir=str(tmp_path / "backups"),
        tls_certificate=str(make_certificate(tmp_path, 100)),
    )
    (tmp_path / "state.json").write_text(json.dumps(state))
    main(["status", "--state-dir", str(tmp_path), "--json"])
    upkeep = json.loads(capsys.readouterr().out)["upkeep"]
    assert upkeep["release"] == "4f1d"
    assert upkeep["certificate_days"] == 99
    assert upkeep["plain_http_on_network"]
    main(["status", "--state-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "release 4f1d" in shown
    assert "certificate good for 99 days" in shown
    assert "WARNING: PLAIN HTTP ON THE NETWORK" in shown
    assert "There is no backup yet" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_state_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    assert read_upkeep({"manager": "supervisord"}).warnings == ()
