"""Everywhere on a host that somebody who is not meant to could look for a secret."""

from __future__ import annotations

from .hosts import Host

# Every process's command line as anybody sees it, and the environments and files that a user
# without rights may read.
SHOWN = {
    "processes": "cat /proc/[0-9]*/cmdline",
    "environments": "setpriv --reuid=65534 --regid=65534 --clear-groups "
    "sh -c 'cat /proc/[0-9]*/environ 2>/dev/null; true'",
    "units": "systemctl show 'llamakit*'",
    "journal": "journalctl --no-pager --output=verbose",
    "files": "setpriv --reuid=65534 --regid=65534 --clear-groups "
    "sh -c 'cat $(find /etc /opt/llamakit/releases /var/lib/llamakit /var/log /tmp /usr/local "
    '-type f -readable -size -4M -not -name "*.gguf" 2>/dev/null); true\'',
}


def everything_shown(host: Host, place: str) -> bytes:
    """What is to be seen in one of these places."""
    seen = bytes(host.system.run(SHOWN[place]).stdout_bytes)
    assert len(seen) > 100 or place == "environments", f"{place}: nothing was looked through"
    return seen
