"""A small world of packages, whose apt and dpkg are one script. What the real ones do with them is
seen on the hosts of the scenario uninstall."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

# Each package with what it needs. `editor` is somebody's own, and came after the kit's.
NEEDS = {
    "server": ["server-15"],
    "server-15": ["library", "zone"],
    "library": [],
    "zone": [],
    "editor": ["zone"],
}
APT = """
#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
folder = Path(__file__).parent
needs = json.loads((folder / "needs.json").read_text())
here = set(json.loads((folder / "here.json").read_text()))
words = [word for word in sys.argv[1:] if not word.startswith("-")]
if Path(sys.argv[0]).name == "dpkg-query":
    print("\\n".join(f"{name} installed" for name in here))
elif words[0] == "update":
    busy = folder / "busy"
    if busy.exists() and busy.read_text():
        busy.write_text(busy.read_text()[1:])
        sys.exit("E: Could not get lock /lists/lock. It is held by process 7 (apt-get)\\n"
                 "E: Unable to lock directory /lists/")
    (folder / "lists").touch()
elif words[0] == "install":
    if not (folder / "lists").exists() or not set(words[1:]) <= needs.keys():
        sys.exit("E: Unable to locate package " + words[1])
    wanted, new = words[1:], []
    while wanted:
        name = wanted.pop()
        wanted += needs[name]
        if name not in here and name not in new:
            new.append(name)
    print("Inst library-of-others [1.0] (2.0 Debian)")
    print("\\n".join(f"Inst {name} (1.0 Debian:12/stable [all])" for name in new))
elif words[0] == "purge":
    gone = set(words[1:]) & here
    while more := {name for name in here - gone if gone & set(needs[name])}:
        gone |= more
    print("\\n".join(f"Purg {name} [1.0]" for name in gone))
"""


class World:
    """What is installed, and the kit's notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "needs.json").write_text(json.dumps(NEEDS))
        self.install()
        for name in ("apt-get", "dpkg-query"):
            script = folder / name
            script.write_text(textwrap.dedent(APT).lstrip())
            script.chmod(0o755)

    def install(self, *names: str) -> None:
        (self.folder / "here.json").write_text(json.dumps(names))

    def busy(self, times: int) -> None:
        """So many updates find another apt at work."""
        (self.folder / "busy").write_text("x" * times)
