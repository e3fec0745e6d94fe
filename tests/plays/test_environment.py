"""Environments are named by what is in them and by the Python that made them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.play import CHECKOUT, Play, run_tasks

MAKE = {
    "name": "Make",
    "ansible.builtin.include_role": {"name": "service", "tasks_from": "environment"},
}
KEEP = {"name": "Keep", "ansible.builtin.set_fact": {"result": "{{ service_environment_path }}"}}


def make(folder: Path, interpreter: str) -> Play:
    """Has the role make an environment of nothing but a lock without packages."""
    lock = folder / "lock.txt"
    lock.touch()
    play = run_tasks(
        folder,
        [MAKE, KEEP],
        service_code_dir=str(folder / "code"),
        service_python=sys.executable,
        service_interpreter=interpreter,
        service_environment_name="proxy",
        service_environment_locks=[str(lock)],
        service_environment_import="json",
    )
    assert play.code == 0, play.output
    return play


def test_every_user_can_run_it_whatever_the_logins_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = Path(make(tmp_path, "cpython-311 /usr").result)
    finally:
        os.umask(before)
    for path in (made.parent, *made.rglob("*")):
        wanted = 0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044
        assert path.is_symlink() or path.stat().st_mode & 0o077 == wanted, path


def test_a_second_run_changes_nothing_and_another_python_makes_another(tmp_path: Path) -> None:
    first = make(tmp_path, "cpython-311 /usr")
    assert subprocess.run([f"{first.result}/bin/python", "-c", ""], check=True).returncode == 0
    again = make(tmp_path, "cpython-311 /usr")
    assert again.result == first.result
    assert "Create the Python environment" not in again.output
    other = make(tmp_path, "cpython-313 /usr")
    assert other.result != first.result
    assert Path(other.result, ".complete").exists()
    assert Path(first.result, ".complete").exists(), "something may still run from it"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the controller is made from."""
    for name in ("requirements", "requirements.yml", "files"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    (tmp_path / "runtime").mkdir()
    return tmp_path


def bootstrap(clone: Path) -> str:
    """The console's own bootstrap, which gets an environment without Ansible in it."""
    script = """
    set -euo pipefail
    ROOT=$PWD RUNTIME=runtime CONTROLLER=runtime/controller
    say() { printf '%s\\n' "$*"; }
    fail() { say "$*"; exit 1; }
    source files/console/bootstrap.sh
    prepare_folders() { :; }
    from_index() { "$PYTHON" -m venv --without-pip --clear "$CONTROLLER"; }
    find_python() { say "$PYTHON"; }
    bootstrap
    """
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=clone,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr
    return run.stderr


@pytest.mark.parametrize("now", ["gone", "another version"])
def test_a_controller_whose_python_is_another_is_made_anew(clone: Path, now: str) -> None:
    assert "Install the controller" in bootstrap(clone)
    assert bootstrap(clone) == ""
    python = clone / "runtime" / "controller" / "bin" / "python"
    python.unlink()
    if now == "gone":
        python.symlink_to("python3.99")
    else:
        python.write_text("#!/bin/sh\necho 3.99\n")
        python.chmod(0o755)
    assert "Install the controller" in bootstrap(clone)
    assert subprocess.run([python, "-c", ""], check=True).returncode == 0
    assert bootstrap(clone) == ""
