"""Checks of the machine around us: service manager, limits, the hub and the clock."""

from __future__ import annotations

import email.utils
import getpass
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import getproxies

import httpx

from llamakit.doctor.finding import Finding, Where
from llamakit.fetch.client import make_client
from llamakit.fetch.download import resolves
from llamakit.fetch.errors import FetchError
from llamakit.fetch.hub import hub_endpoint
from llamakit.services.managers import load_state

HUB_SECONDS = 3.0
MINIMUM_FILES = 4096
CLOCK_TOLERANCE = 60.0  # seconds
BUILT_AFTER = 1_735_689_600  # 2025-01-01: a clock before that is certainly wrong


def service_manager(where: Where) -> Iterator[Finding]:
    """What runs the services, and whether they outlive the session."""
    try:
        manager = json.loads((where.state_dir / "state.json").read_text())["manager"]
    except (OSError, ValueError, KeyError):
        manager = None
    if manager is None:
        yield Finding("ok", "services", "none are installed yet")
    elif manager != "systemd-user":
        yield Finding("ok", "services", f"managed by {manager}")
    elif not user_manager_runs():
        remedy = "log in anew, or start it: systemctl start user@$(id -u) (as root)"
        yield Finding("fail", "services", "no systemd user manager answers", remedy)
    elif Path("/var/lib/systemd/linger", getpass.getuser()).exists():
        yield Finding("ok", "services", "systemd user units that outlive the session")
    else:
        found = "systemd user units, which end with your last session"
        yield Finding("warn", "services", found, "let them go on: loginctl enable-linger")
    if shutil.which("setpriv") is None:
        remedy = "install util-linux: the services' processes are tied to their supervisor by it"
        yield Finding("fail", "services", "there is no setpriv", remedy)


def chosen_manager(state_dir: Path) -> str:
    """What will run the services, as group_vars/local/kit/place.yml chooses it."""
    if given := os.environ.get("LLAMAKIT_SERVICE_MANAGER"):
        return given
    try:
        return str(load_state(state_dir)["manager"])
    except (OSError, ValueError, KeyError):
        pass
    if os.geteuid() == 0:
        return "systemd-system" if Path("/run/systemd/system").exists() else "supervisord"
    return "systemd-user" if user_manager_runs() else "supervisord"


def user_manager_runs() -> bool:
    """True when a systemd user manager answers."""
    try:
        result = subprocess.run(
            ["systemctl", "--user", "is-system-running"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.stdout.strip() in ("running", "degraded")


def open_files(_where: Where) -> Iterator[Finding]:
    """Each connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MINIMUM_FILES:
        found = f"at most {hard} open files a process"
        remedy = f"allow {MINIMUM_FILES}: ulimit -n, or LimitNOFILE= of what starts you"
        yield Finding("fail", "limits", found, remedy)
    else:
        yield Finding("ok", "limits", "enough open files")


def hub_and_clock(_where: Where) -> Iterator[Finding]:
    """Whether models can be fetched; the hub's answer also tells what time it is."""
    endpoint = hub_endpoint()
    now, date = time.time(), None
    try:
        host = httpx.URL(endpoint).host
        # A proxy resolves the name itself.
        if not getproxies() and not (host and resolves(host, HUB_SECONDS)):
            raise httpx.ConnectError("its name can't be resolved")
        with make_client(timeout=HUB_SECONDS) as client:
            date = client.head(endpoint).headers.get("date")
        yield Finding("ok", "hub", f"{endpoint} answers")
    except FetchError as error:
        found, *_, remedy = str(error).splitlines()
        yield Finding("warn", "hub", found, remedy.partition(":")[2].strip())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{endpoint} can't be reached: {error}"
        remedy = "set HF_ENDPOINT or HTTPS_PROXY, or copy models into models/ yourself"
        yield Finding("warn", "hub", found, remedy)
    offset = 0.0
    if date is not None and (parsed := email.utils.parsedate_tz(date)):
        offset = now - email.utils.mktime_tz(parsed)
    remedy = "set the clock (timedatectl set-ntp true): keys expire by it"
    if now < BUILT_AFTER:
        yield Finding("fail", "clock", time.strftime("%F %T", time.gmtime(now)), remedy)
    elif abs(offset) > CLOCK_TOLERANCE:
        yield Finding("warn", "clock", f"{offset:+.0f} s away from the hub's", remedy)
    else:
        yield Finding("ok", "clock", time.strftime("%F %T UTC", time.gmtime(now)))


CHECKS = (service_manager, open_files, hub_and_clock)
