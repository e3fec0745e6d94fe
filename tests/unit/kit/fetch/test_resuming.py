"""Fetches that are cut, killed or doubled: they go on where they were, and the file is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llamakit.fetch import download
from support.fetching import REPOSITORY, Place
from support.hub import Hub

KIT = Path(__file__).parents[4] / "files" / "kit" / "src"


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
    # In what is there already: with the new rest behind it, it would be neither version.
    new[place.part.stat().st_size // 2] ^= 1
    hub.files[f"{REPOSITORY}/script.gguf"] = bytes(new)
    assert place.fetch() == 0
    assert place.target.read_bytes() == bytes(new)


def test_a_part_whose_file_can_not_be_told_from_another_is_dropped(hub: Hub, place: Place) -> None:
    hub.fault.no_checksum = hub.fault.no_validator = True
    hub.fault.cut_after = [500_000] + [0] * download.MAX_FAILURES
    place.fetch()
    hub.fault.cut_after = []
    new = bytearray(hub.files[f"{REPOSITORY}/script.gguf"])
    new[1000] ^= 1
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


def test_a_server_in_trouble_is_tried_again(hub: Hub, place: Place) -> None:
    hub.fault.statuses = [503, 429]
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
