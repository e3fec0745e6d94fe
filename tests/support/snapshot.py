"""What a host is made of: its files, users, packages and units, to compare it with later.

``python -m support.snapshot HOST`` keeps it as ``bare-HOST.json`` in Molecule's folder.
"""

from __future__ import annotations

import json
import sys

from .hosts import FOLDER, Host

COMMANDS = {
    "files": "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run \\) -prune "
    "-o -printf '%y %m %u:%g %p\\n'",
    "settings": "find /etc -xdev -type f -exec sha256sum {} +",
    "users": "getent passwd",
    "groups": "getent group",
    "packages": "dpkg-query --show",
    "units": "systemctl list-unit-files --plain --no-legend --no-pager",
    "listeners": "ss --listening --tcp --numeric --no-header | awk '{print $4}'",
}
Snapshot = dict[str, list[str]]


def take(host: Host) -> Snapshot:
    """The lines of each of the commands."""
    return {kind: sorted(host.lines(command)) for kind, command in COMMANDS.items()}


def bare(host: Host) -> Snapshot:
    """What the host was before anything was deployed."""
    kept: Snapshot = json.loads((FOLDER / f"bare-{host.name}.json").read_text())
    return kept


if __name__ == "__main__":
    name = sys.argv[1]
    (FOLDER / f"bare-{name}.json").write_text(json.dumps(take(Host(name)), indent=1))
