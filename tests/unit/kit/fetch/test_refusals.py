"""Fetches that end with an error: what is told, and what is left on the disk."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from llamakit.fetch import download
from support.fetching import REPOSITORY, Place
from support.hub import Hub, sha256


def test_wrong_bytes_are_removed(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = sha256(b"something else")
    place.write(sha256=expected)
    assert place.fetch() == 4
    assert list(place.models.iterdir()) == []
    error = capsys.readouterr().err
    assert expected in error
    assert sha256(hub.files[f"{REPOSITORY}/script.gguf"]) in error


def test_the_hubs_checksum_is_used_when_none_is_given(hub: Hub, place: Place) -> None:
    real = hub.files[f"{REPOSITORY}/script.gguf"]
    hub.fault.cut_after = [len(real) // 2] + [0] * download.MAX_FAILURES
    assert place.fetch() == 3
    hub.fault.cut_after = []
    damaged = bytearray(place.part.read_bytes())
    damaged[1000] ^= 1
    place.part.write_bytes(damaged)
    assert place.fetch() == 4
    assert place.fetch() == 0


def test_a_size_that_differs_is_told_before_anything_is_fetched(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(size=12345)
    assert place.fetch() == 4
    assert "12345" in capsys.readouterr().err
    assert not place.part.exists()


def test_something_that_is_no_model_is_told(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[f"{REPOSITORY}/script.gguf"] = b"<html>Welcome to the hotel</html>"
    assert place.fetch() == 4
    assert "not a GGUF model" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "said"), [(None, "no HF_TOKEN"), ("hf_wrong", "not accepted")])
def test_a_gated_repository_asks_for_a_token(
    hub: Hub,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: str | None,
    said: str,
) -> None:
    hub.gated.add(REPOSITORY)
    if sent:
        monkeypatch.setenv("HF_TOKEN", sent)
    assert place.fetch() == 6
    error = capsys.readouterr().err
    assert said in error
    assert "licence" in error
    assert "hf_wrong" not in error


def test_a_file_that_is_not_there_is_told(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(file="other.gguf")
    assert place.fetch() == 6
    assert "compare source:" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451, 503, "wrong", "cut", "away"])
def test_a_signed_address_is_told_without_its_signature(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str], status: int | str
) -> None:
    """Whoever has the query may read the file, and what is told ends up in logs and issues."""
    address = f"{hub.storage_url}/{REPOSITORY}/script.gguf"
    if status == "wrong":
        place.write(hf=None, file=None, url=f"{address}?signature=canary", size=5)
    elif status == "away":
        address = "http://127.0.0.1:9/script.gguf"
        place.write(hf=None, file=None, url=f"{address}?signature=canary")
    else:
        place.write(hf=None, file=None, url=f"{address}?signature=canary")
        if status == "cut":
            hub.fault.cut_after = [1000] + [0] * download.MAX_FAILURES
        else:
            hub.fault.statuses = [int(status)] * download.MAX_FAILURES
    assert place.fetch() != 0
    told = capsys.readouterr()
    assert "script.gguf" in told.err
    assert "canary" not in told.out + told.err


def test_an_unreachable_hub_is_told_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert place.fetch() == 3
    assert time.monotonic() - start < download.CONNECT_SECONDS
    assert "HF_ENDPOINT" in capsys.readouterr().err
    assert not place.part.exists()


def test_a_name_without_an_address_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(download, "getproxies", dict)
    assert place.fetch() == 3
    assert "hub.invalid can't be reached" in capsys.readouterr().err


def test_a_full_disk_is_seen_before_and_counts_what_is_there(
    hub: Hub,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def disk(free: int) -> None:
        status = SimpleNamespace(f_bavail=free, f_frsize=1)
        monkeypatch.setattr(os, "statvfs", lambda _path: status)

    length = len(hub.files[f"{REPOSITORY}/script.gguf"])
    disk(download.DISK_MARGIN + length - 1000)
    assert place.fetch() == 5
    assert "no room" in capsys.readouterr().err
    assert not place.part.exists()
    disk(download.DISK_MARGIN + length)
    hub.fault.cut_after = [1000] + [0] * download.MAX_FAILURES
    assert place.fetch() == 3
    hub.fault.cut_after = []
    disk(download.DISK_MARGIN + length - 1000)
    assert place.fetch() == 0


def test_a_folder_that_cannot_be_written_is_told(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.models.write_text("a file, not a folder")
    assert place.fetch() == 5
    assert "can't write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere"),
        ("NO_PROXY", "[::1]"),
        ("ALL_PROXY", "socks5://hunter2@127.0.0.1:9"),
        ("HTTPS_PROXY", "http://user:hunter2#@127.0.0.1:9"),
    ],
)
def test_settings_of_the_network_that_can_not_be_used(
    hub: Hub,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert place.fetch() == 3
    said = capsys.readouterr().err
    assert name in said
    assert "hunter2" not in said
    assert not place.part.exists()
    assert hub.requests == []
