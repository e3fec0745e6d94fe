"""A systemctl that only keeps book, for tests in which it has to fail or to die."""

import sys
from pathlib import Path

_PROGRAM = Path(__file__).with_name("fake_systemctl.py")


def put_systemctl(folder: Path) -> None:
    """Has one in this folder, which is to be on the path of who calls it."""
    program = folder / "systemctl"
    program.write_text(f"#!{sys.executable}\n{_PROGRAM.read_text()}")
    program.chmod(0o755)
