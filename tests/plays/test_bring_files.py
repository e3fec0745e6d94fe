"""The bring_files action: large files in pieces, checked, and gone on with when interrupted."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from support.play import Play, run_tasks

CONTENT = bytes(range(256)) * 40
PIECE = 64 << 20  # as the plugin sends them


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.gguf"
    file.write_bytes(CONTENT)
    return file


def bring(folder: Path, source: Path, dest: Path, *arguments: str, digest: str = "") -> Play:
    """Brings ``source``, which has ``digest`` or else should have CONTENT's."""
    task: dict[str, Any] = {
        "name": "Bring",
        "bring_files": {
            "files": [
                {
                    "src": str(source),
                    "dest": str(dest),
                    "size": source.stat().st_size,
                    "sha256": digest or hashlib.sha256(CONTENT).hexdigest(),
                }
            ],
            "owner": pwd.getpwuid(os.getuid()).pw_name,
            "group": grp.getgrgid(os.getgid()).gr_name,
        },
        "register": "result",
    }
    return run_tasks(folder, [task], *arguments)


def test_a_file_is_brought_once(tmp_path: Path, source: Path) -> None:
    dest = tmp_path / "models" / "own" / "m.gguf"
    assert bring(tmp_path, source, dest, "--check").result["changed"]
    assert not dest.parent.exists()
    assert bring(tmp_path, source, dest).result["brought"] == [str(dest)]
    assert dest.read_bytes() == CONTENT
    assert dest.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in dest.parent.iterdir()] == ["m.gguf"]
    assert not bring(tmp_path, source, dest).result["changed"]


def test_what_had_arrived_is_not_sent_again(tmp_path: Path, source: Path) -> None:
    dest = tmp_path / "m.gguf"
    (tmp_path / "m.gguf.part").write_bytes(CONTENT[:5000])
    # What it starts with can then be read nowhere but in the part.
    source.write_bytes(b"\0" * 5000 + CONTENT[5000:])
    assert bring(tmp_path, source, dest).code == 0
    assert dest.read_bytes() == CONTENT


def test_a_file_that_arrives_as_another_is_removed(tmp_path: Path, source: Path) -> None:
    dest = tmp_path / "m.gguf"
    play = bring(tmp_path, source, dest, digest="0" * 64)
    assert play.code == 2
    assert "as the bundle's manifest says" in play.output
    assert not dest.exists()
    assert not (tmp_path / "m.gguf.part").exists()


def test_a_file_larger_than_a_piece_is_whole(tmp_path: Path) -> None:
    dest, large = tmp_path / "large.gguf", tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(PIECE + 1000)
        file.seek(PIECE)
        file.write(b"end")
    with large.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    play = bring(tmp_path, large, dest, digest=digest)
    assert play.code == 0, play.output
    assert "large: 99%" in play.output
    assert dest.stat().st_size == large.stat().st_size
