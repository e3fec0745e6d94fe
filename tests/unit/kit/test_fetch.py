"""Fetching model files from a local hub, with everything that can go wrong on the way."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from llamakit.cli import main
from llamakit.config.entries import Source
from llamakit.fetch import download
from llamakit.fetch.hub import remote_files
from llamakit.fetch.progress import Progress
from llamakit.fetch.stamps import Stamps
from support.hub import Hub, running_hub
from support.models import script_model, sharded_model

KIT = Path(__file__).parents[3] / "files" / "kit" / "src"
REPOSITORY = "maker/script-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files[f"{REPOSITORY}/script.gguf"] = script_model(tmp_path / "made").read_bytes()
        yield hub


class Place:
    """A folder with a models.yaml and a models folder."""

    def __init__(self, folder: Path) -> None:
        self.config, self.models = folder / "models.yaml", folder / "models"
        self.target = self.models / "script.gguf"
        self.part = self.models / "script.gguf.part"

    def write(self, **source: object) -> None:
        given = {"hf": REPOSITORY, "file": "script.gguf", **source}
        given = {key: value for key, value in given.items() if value is not None}
        self.config.write_text(yaml.safe_dump({"models": [{"id": "script", "source": given}]}))

    def arguments(self) -> list[str]:
        return ["--models", str(self.config), "--models-dir", str(self.models)]

    def fetch(self, *more: str) -> int:
        return main(["fetch", *self.arguments(), "--progress", "none", *more])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write()
    return place


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, place: Place) -> None:
    hub.fault.cut_after = [700_000, 300_000]
    assert place.fetch() == 0
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]
    assert hub.ranges() == ["", "bytes=700000-", "bytes=1000000-"]


def test_an_earlier_part_is_resumed_by_another_process(hub: Hub, place: Place) -> None:
    hub.fault.cut_after = [500_000] + [0] * download.MAX_FAILURES
    assert place.fetch() == 3
    assert place.part.stat().st_size == 500_000
    hub.fault.cut_after = []
    assert place.fetch() == 0
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]
    assert hub.ranges()[-1] == "bytes=500000-"


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: Hub, place: Place) -> None:
    hub.fault.ignore_range = True
    hub.fault.cut_after = [500_000]
    assert place.fetch() == 0
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]


def test_a_part_of_another_version_is_dropped(hub: Hub, place: Place) -> None:
    hub.fault.cut_after = [500_000] + [0] * download.MAX_FAILURES
    place.fetch()
    hub.fault.cut_after = []
    new = bytearray(hub.files[f"{REPOSITORY}/script.gguf"])
    new[-1] ^= 1
    hub.files[f"{REPOSITORY}/script.gguf"] = bytes(new)
    assert place.fetch() == 0
    assert place.target.read_bytes() == bytes(new)


def test_a_part_that_is_complete_needs_no_more_bytes(hub: Hub, place: Place) -> None:
    content = hub.files[f"{REPOSITORY}/script.gguf"]
    place.models.mkdir()
    place.part.write_bytes(content)
    assert place.fetch() == 0
    assert place.target.read_bytes() == content


def test_a_part_that_is_too_long_is_dropped(hub: Hub, place: Place) -> None:
    content = hub.files[f"{REPOSITORY}/script.gguf"]
    place.models.mkdir()
    place.part.write_bytes(content + b"more")
    assert place.fetch() == 0
    assert place.target.read_bytes() == content


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


def test_a_file_that_is_not_there_is_told(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(file="other.gguf")
    assert place.fetch() == 6
    assert "compare source:" in capsys.readouterr().err


def test_a_server_in_trouble_is_tried_again(hub: Hub, place: Place) -> None:
    hub.fault.statuses = [503, 429]
    assert place.fetch() == 0


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


def test_a_disk_that_fills_up_keeps_the_part(hub: Hub, place: Place) -> None:
    """RLIMIT_FSIZE makes write() fail in the middle, as a full disk does."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000));"
        "from llamakit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited, "fetch", *place.arguments()],
        env={**os.environ, "PYTHONPATH": str(KIT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 5, result.stderr
    assert "can't write" in result.stderr
    assert place.part.stat().st_size == 1_500_000
    assert place.fetch() == 0
    assert hub.ranges()[-1] == "bytes=1500000-"


def running_fetch(place: Place) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llamakit", "fetch", *place.arguments()],
        env={**os.environ, "PYTHONPATH": str(KIT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that a shell runs in its background have SIGINT ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_bytes(part: Path) -> None:
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 100_000):
        assert time.monotonic() < deadline, "nothing arrived"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_fetch_goes_on_where_it_was(hub: Hub, place: Place, how: signal.Signals) -> None:
    hub.fault.bytes_per_second = 1_000_000
    process = running_fetch(place)
    wait_for_bytes(place.part)
    process.send_signal(how)
    output, _ = process.communicate(timeout=20)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "goes on from there" in output
    assert not place.target.exists()
    assert place.part.stat().st_size > 0
    hub.fault.bytes_per_second = 0
    assert place.fetch() == 0
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]
    assert hub.ranges()[-1].startswith("bytes=")


def test_two_fetches_at_once_are_one_download(hub: Hub, place: Place) -> None:
    hub.fault.bytes_per_second = 2_000_000
    processes = [running_fetch(place) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]
    assert len(hub.ranges()) == 1
    assert list(place.models.iterdir()) == [place.target]


def test_the_second_fetch_takes_over_when_the_first_is_killed(hub: Hub, place: Place) -> None:
    hub.fault.bytes_per_second = 1_000_000
    first = running_fetch(place)
    wait_for_bytes(place.part)
    second = running_fetch(place)
    threading.Timer(0.5, first.kill).start()
    output, _ = second.communicate(timeout=60)
    first.communicate(timeout=20)
    assert second.returncode == 0, output
    assert place.target.read_bytes() == hub.files[f"{REPOSITORY}/script.gguf"]


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


def test_a_folder_that_cannot_be_written_is_told(
    hub: Hub, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.models.write_text("a file, not a folder")
    assert place.fetch() == 5
    assert "can't write" in capsys.readouterr().err


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
