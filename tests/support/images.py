"""Bare Debian images with systemd, made here once: no registry is asked.

``python -m support.images 12 13`` makes those that are missing and prints a line ``NAME RUNTIME``
for each. The tag is a digest of the recipe, so a changed recipe makes a new image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from .podman import PodmanError, podman, runtime

CODENAMES = {"12": "bookworm", "13": "trixie"}
# What a host has before Ansible has seen it. Nothing that the kit should bring.
PACKAGES = "systemd,systemd-sysv,dbus,python3,passwd,sudo,iproute2,ca-certificates,procps"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
APT = Path("/etc/apt")
# A container has no console, its network is podman's and its kernel the host's.
MASKED = (
    "getty.target",
    "console-getty.service",
    "systemd-networkd-wait-online.service",
    "systemd-modules-load.service",
)
# systemd hands out credentials through mounts that spread, as they do on a host.
START = ["/bin/sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd"]
CHANGES = (f"--change=CMD {json.dumps(START)}", "--change=STOPSIGNAL SIGRTMIN+3")


def mirror() -> str:
    """Where packages come from: LLAMAKIT_DEBIAN_MIRROR, this machine's own mirror, or Debian's."""
    if given := os.environ.get("LLAMAKIT_DEBIAN_MIRROR"):
        return given
    for path in [APT / "sources.list", *sorted(APT.glob("sources.list.d/*"))]:
        if path.suffix not in {".list", ".sources"} or not path.is_file():
            continue
        for line in path.read_text().splitlines():
            if line.lstrip().startswith("#"):
                continue
            for uri in re.findall(r"https?://\S+", line):
                # Debian's mirrors keep the archive in a folder of that name.
                if urlsplit(uri).path.strip("/").endswith("debian"):
                    return str(uri).rstrip("/")
    return MIRROR


def recipe(version: str, source: str) -> list[str]:
    """The command that writes the image's file system as a tar archive to its standard output."""
    codename = CODENAMES[version]
    return [
        "mmdebstrap",
        "--variant=apt",
        f"--include={PACKAGES}",
        f"--keyring={KEYRING}",
        "--quiet",
        f'--customize-hook=chroot "$1" systemctl mask {" ".join(MASKED)}',
        '--customize-hook=: >"$1/etc/machine-id"',
        codename,
        "-",
        f"deb {source} {codename} main",
        f"deb {source} {codename}-updates main",
    ]


def make(version: str) -> str:
    """The name of the image of Debian ``version``, which is made when it is not there.

    Raises:
        PodmanError: when podman refuses it.
        subprocess.CalledProcessError: when mmdebstrap fails; its reason is on the screen.
    """
    command = recipe(version, mirror())
    digest = hashlib.sha256("\n".join([*command, *CHANGES]).encode()).hexdigest()[:12]
    name = f"localhost/llamakit-debian{version}:{digest}"
    try:
        podman("image", "inspect", name)
    except PodmanError:
        print(f"Making a bare Debian {version} from {mirror()}", file=sys.stderr)
    else:
        return name
    archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    podman("import", *CHANGES, "-", name, stdin=archive)
    return name


def main() -> int:
    """The program."""
    for version in sys.argv[1:]:
        try:
            name = make(version)
            print(name, runtime(name))
        except (PodmanError, subprocess.CalledProcessError) as error:
            print(f"no image of Debian {version}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
