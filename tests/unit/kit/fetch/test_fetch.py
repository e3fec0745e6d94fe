"""Fetches that go well: from every kind of source, with progress, and not twice."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from llamakit.cli import main
from llamakit.config.entries import Source
from llamakit.fetch.hub import remote_files
from llamakit.fetch.progress import Progress
from llamakit.fetch.stamps import Stamps
from support.fetching import REPOSITORY, Place
from support.hub import Hub, sha256
from support.models import script_model, sharded_model


def test_a_file_is_fetched_checked_and_left_alone_the_second_time(hub: Hub, place: Place) -> None:
    content = hub.files[f"{REPOSITORY}/script.gguf"]
    place.write(sha256=sha256(content), size=len(content), revision="0123abc")
    assert place.fetch() == 0
    assert place.target.read_bytes() == content
    assert hub.requests[0][1] == f"/{REPOSITORY}/resolve/0123abc/script.gguf"
    assert list(place.models.iterdir()) == [place.target]
    count = len(hub.requests)
    assert place.fetch() == 0
    assert len(hub.requests) == count


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: Hub,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.gated.add(REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.fault.cut_after = [100_000]
    assert place.fetch() == 0
    seen = {(server, headers.get("authorization")) for server, _, headers in hub.requests}
    assert seen == {("hub", f"Bearer {hub.token}"), ("storage", None)}
    output = capsys.readouterr()
    assert hub.token not in output.out + output.err
    assert "signature" not in output.out + output.err


def test_a_sharded_model_comes_into_a_folder_of_its_own(
    hub: Hub, place: Place, tmp_path: Path
) -> None:
    first = sharded_model(tmp_path / "shards", "big")
    shards = sorted(first.parent.iterdir())
    for shard in shards:
        hub.files[f"{REPOSITORY}/q4/{shard.name}"] = shard.read_bytes()
    place.write(file=f"q4/{first.name}", sha256=[sha256(s.read_bytes()) for s in shards])
    assert place.fetch() == 0
    fetched = sorted((place.models / "big").iterdir())
    assert [file.name for file in fetched] == [shard.name for shard in shards]
    fetched[1].unlink()
    assert place.fetch() == 0
    assert fetched[1].exists()


def test_a_url_source_sends_no_token(
    hub: Hub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    place.write(hf=None, file=None, url=f"{hub.storage_url}/{REPOSITORY}/script.gguf?key=1")
    assert place.fetch() == 0
    assert all("authorization" not in headers for _, _, headers in hub.requests)


def test_a_path_source_is_used_in_place(place: Place, tmp_path: Path) -> None:
    there = script_model(tmp_path / "elsewhere")
    place.write(hf=None, file=None, path=str(there))
    assert place.fetch() == 0
    assert there.exists()
    assert not place.target.exists()
    there.unlink()
    assert place.fetch() == 6


def test_progress_lines_are_few_and_end_at_the_whole(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", *place.arguments(), "--progress", "plain"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "script.gguf: " in line]
    assert "100%" in lines[-1] or "100%" in lines[-2]
    assert len(lines) <= 24


def test_check_files_finds_a_changed_byte_and_trusts_unchanged_files(
    hub: Hub, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = tmp_path / "runtime" / "stamps.json"
    content = hub.files[f"{REPOSITORY}/script.gguf"]
    place.write(sha256=sha256(content))
    assert place.fetch("--stamp", str(stamp)) == 0
    check = ["check-files", *place.arguments(), "--stamp", str(stamp)]
    with monkeypatch.context() as patch:
        patch.setattr("llamakit.fetch.stamps.sha256_of", None)  # must not be needed
        assert main(check) == 0
    damaged = bytearray(content)
    damaged[-100] ^= 1
    place.target.write_bytes(damaged)
    assert main(check) == 4
    place.target.write_bytes(content[:-100])
    assert main(check) == 4
    place.target.unlink()
    assert main([*check, "--model", "script"]) == 4


def test_a_damaged_stamp_file_only_costs_time(tmp_path: Path) -> None:
    file, stamp = tmp_path / "file", tmp_path / "stamp"
    file.write_bytes(b"content")
    stamp.write_text("{broken")
    stamps = Stamps(stamp)
    assert stamps.sha256(file) == sha256(b"content")
    stamps.save()
    assert Stamps(stamp).sha256(file) == sha256(b"content")


def test_an_endpoint_without_a_scheme_is_https(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("hf", "o/n", "x y.gguf", "a/b", (None,), (None,))
    (remote,) = remote_files(source, {"HF_ENDPOINT": "mirror.example.org/"})
    assert remote.url == "https://mirror.example.org/o/n/resolve/a%2Fb/x%20y.gguf"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_stays_on_one_line_of_80_columns() -> None:
    terminal = Terminal()
    progress = Progress("a-very-long-name.gguf", "auto", terminal)
    progress.total = 123_456_789_000
    for done in (0, 50_000_000_000, 123_456_789_000):
        progress.update(done)
        time.sleep(0.25)
    progress.finish(123_456_789_000)
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1
    assert all(len(line.removesuffix("\x1b[K")) <= 80 for line in drawn.split("\r"))
    assert "100%" in drawn.rsplit("\r", 1)[1]
