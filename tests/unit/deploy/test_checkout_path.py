"""Where a checkout may lie: console.sh says so before it makes anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from unit.docs import pages


def ask_for_more(folder: Path) -> subprocess.CompletedProcess[str]:
    """A verb that prepares the checkout, in a copy that has no more than console.sh's own files."""
    shutil.copytree(pages.ROOT / "files/console", folder / "files/console")
    shutil.copy(pages.ROOT / "console.sh", folder)
    return subprocess.run(
        [str(folder / "console.sh"), "models"],
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["my kit", "100%", "it's", 'a"b', "a:b", "$HOME", "[kit]", "a\\b"])
def test_a_path_that_services_can_not_have_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    told = ask_for_more(folder)
    assert told.returncode == 1
    assert f"the path of this checkout is {folder}; expected one without spaces" in told.stderr
    assert "mv " in told.stderr
    assert {path.name for path in folder.iterdir()} == {"console.sh", "files"}


@pytest.mark.parametrize("name", ["kit", "my-kit_2.0+x@y", "küche", "~a,b=c"])
def test_others_are_not(name: str) -> None:
    # The check alone, for a checkout that is fine would have an installation begin.
    script = (
        'ROOT=$1; fail() { printf "%s\\n" "$*"; }; source files/console/bootstrap.sh; check_place'
    )
    told = subprocess.run(
        ["bash", "-euc", script, "bash", f"/srv/{name}"],
        cwd=pages.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == told.stderr == ""
