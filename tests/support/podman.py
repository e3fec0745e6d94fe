"""podman, as the tests use it: to ask, to run, and to remove what carries our label."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
LABEL = "llamakit.checkout"
# podman's own limits may be above what it may set itself, in a container say.
ULIMITS = ("nofile=20000:20000", "nproc=32768:32768")
IDENTITY = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]
"""What tells this checkout's containers from another's."""


class PodmanError(Exception):
    """What podman said, after the command that failed."""


def podman(*arguments: str, stdin: bytes | None = None, seconds: float = 300) -> str:
    """The output of ``podman ARGUMENTS``.

    Raises:
        PodmanError: when it fails.
    """
    run = subprocess.run(
        ["podman", *arguments], input=stdin, capture_output=True, timeout=seconds, check=False
    )
    if run.returncode != 0:
        raise PodmanError(f"podman {' '.join(arguments)}: {run.stderr.decode().strip()}")
    return run.stdout.decode()


def containers(*filters: str) -> list[dict[str, Any]]:
    """This checkout's containers, running or not."""
    options = [f"--filter={text}" for text in (f"label={LABEL}={IDENTITY}", *filters)]
    found: list[dict[str, Any]] = json.loads(podman("ps", "--all", "--format=json", *options))
    return found


def container_name(scenario: str, host: str) -> str:
    """The name of a host's container, which no other checkout or scenario has."""
    return f"{host}-{scenario}-{IDENTITY}"


@functools.cache
def runtime(image: str) -> str:
    """The OCI runtime that can start the image here: podman's own choice, else runc.

    crun refuses machines whose cgroups are of both versions.

    Raises:
        PodmanError: when neither can.
    """
    default = podman("info", "--format={{.Host.OCIRuntime.Name}}").strip()
    options = [f"--ulimit={limit}" for limit in ULIMITS]
    refused = ""
    for name in dict.fromkeys([default, "runc"]):
        try:
            podman(f"--runtime={name}", "run", "--rm", "--privileged", *options, image, "/bin/true")
        except PodmanError as error:
            refused += f"\n{error}"
        else:
            return name
    raise PodmanError(f"neither {default} nor runc can run a container here:{refused}")
