"""Brings the services under supervisord to what their definitions say, and waits until they answer.

The definitions are written by the service role: ``supervisor.d/NAME.conf`` for supervisord and
``services.d/NAME.json`` for the kit, both below the state directory.
"""

from __future__ import annotations

import configparser
import json
import os
import pwd
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from llamakit.services.probe import answers, running_release
from llamakit.services.supervisord import Supervisor, SupervisorUnavailable

START_SECONDS = 10.0
STOP_SECONDS = 90.0
LOG_LINES = 12
FAILED_STARTS = 3


class SuperviseError(Exception):
    """A service or the supervisor did not do as asked; the message is for people."""


def socket_path(state_dir: Path) -> Path:
    """Where the supervisor that ``supervisord.conf`` describes listens."""
    config = configparser.RawConfigParser()
    config.read(state_dir / "supervisord.conf")
    return Path(config["unix_http_server"]["file"])


def load_services(state_dir: Path) -> dict[str, dict[str, Any]]:
    """The definitions of the services that keep running, by name and in start order."""
    order = {"postgres": 0, "model": 1, "proxy": 2}
    written = [json.loads(path.read_text()) for path in (state_dir / "services.d").glob("*.json")]
    found = [service for service in written if not service.get("schedule")]
    found.sort(key=lambda service: (order[service["kind"]], service["port"]))
    return {service["name"]: service for service in found}


def connect(state_dir: Path, timeout: float = STOP_SECONDS) -> Supervisor | None:
    """The running supervisor, or None when none answers."""
    if not (state_dir / "supervisord.conf").exists():
        return None
    supervisor = Supervisor(socket_path(state_dir), timeout)
    try:
        supervisor.pid()
    except SupervisorUnavailable:
        return None
    return supervisor


def _launch(state_dir: Path, user: str | None) -> Supervisor:
    """Starts supervisord in an environment of its own, so that nothing of ours leaks into it."""
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())
    sockets = socket_path(state_dir).parent
    sockets.mkdir(mode=0o700, exist_ok=True)
    if user:
        os.chown(sockets, account.pw_uid, account.pw_gid)
    if sockets.stat().st_uid != account.pw_uid:
        raise SuperviseError(
            f"{sockets} belongs to someone else; expected it to be {account.pw_name}'s.\n"
            f"Remove it, then run ./console.sh start again."
        )
    python = _watchdog_python(state_dir)
    step_down: dict[str, Any] = {}
    if user:
        step_down = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    subprocess.run(
        [python, "-m", "supervisor.supervisord", "-c", str(state_dir / "supervisord.conf")],
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=state_dir,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": account.pw_dir, "LANG": "C.UTF-8"},
        start_new_session=True,
        **step_down,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if supervisor := connect(state_dir):
            return supervisor
        time.sleep(0.1)
    raise SuperviseError(
        f"supervisord was started but does not answer on {socket_path(state_dir)}.\n"
        f"Its log says why: ./console.sh logs supervisord"
    )


def _watchdog_python(state_dir: Path) -> str:
    """The supervisor's interpreter, as its own settings name it for the watchdog."""
    config = configparser.RawConfigParser()
    config.read(state_dir / "supervisord.conf")
    return shlex.split(config["program:watchdog"]["command"])[0]


def apply(
    state_dir: Path, names: Sequence[str], user: str | None, restart: Collection[str] = ()
) -> list[str]:
    """Starts what is new or stopped, restarts what changed, removes what is gone.

    ``restart`` names services that are restarted although their definitions are the same. Waits
    until every service of ``names`` answers, and lets those that run another release than their
    definition has take it up while they run. Returns the names that were touched; raises
    SuperviseError when one does not come up in its own start time.
    """
    services = load_services(state_dir)
    touched: list[str] = []
    supervisor = connect(state_dir)
    if supervisor is None:
        supervisor = _launch(state_dir, user)
        touched += names
    added, changed, removed = supervisor.reread()
    for name in [*changed, *removed]:
        supervisor.remove(name)
    for name in [*added, *changed]:
        supervisor.add(name)
    touched += [*added, *changed, *removed]
    for name in restart:
        if name not in touched:
            supervisor.stop(name)
    running = supervisor.processes()
    for name in names:
        if running[name]["statename"] not in {"RUNNING", "STARTING", "BACKOFF"}:
            supervisor.start(name)
            touched.append(name)
    for name in names:
        wait_until_up(supervisor, services[name])
        if take_up_release(supervisor, services[name]):
            touched.append(name)
    return sorted(set(touched))


def wait_until_up(supervisor: Supervisor, service: dict[str, Any]) -> None:
    """Returns when the service answers its probe from the process the supervisor started."""
    name = service["name"]
    deadline = time.monotonic() + service["start_timeout"]
    failed: set[int] = set()
    while time.monotonic() < deadline:
        info = supervisor.processes()[name]
        if info["statename"] in {"RUNNING", "STARTING"} and answers(service, timeout=2.0):
            return
        if info["statename"] in {"BACKOFF", "FATAL", "EXITED"}:
            failed.add(info["stop"] or info["now"])
        if len(failed) >= FAILED_STARTS or info["statename"] == "FATAL":
            raise SuperviseError(_story(service, f"{name} ends each time it is started"))
        time.sleep(0.2)
    raise SuperviseError(
        _story(service, f"{name} did not answer within {service['start_timeout']} seconds")
    )


def take_up_release(supervisor: Supervisor, service: dict[str, Any]) -> bool:
    """Reloads a service that answers from another release than its own; whether that was needed.

    Raises:
        SuperviseError: it does not answer from its release in its start time. It goes on as it was.
    """
    wanted = service.get("release")
    if not wanted or running_release(service, timeout=2.0) == wanted:
        return False
    supervisor.signal(service["name"], "HUP")
    deadline = time.monotonic() + service["start_timeout"]
    while time.monotonic() < deadline:
        if running_release(service, timeout=2.0) == wanted:
            wait_until_up(supervisor, service)
            return True
        time.sleep(0.2)
    raise SuperviseError(
        _story(
            service,
            f"{service['name']} did not take up release {wanted} within "
            f"{service['start_timeout']} seconds",
        )
    )


def reload(state_dir: Path, names: Sequence[str], release: str) -> list[str]:
    """Lets services take up a release, and notes in their definitions that it is theirs.

    What does not run will start with it. Returns the names of those that took it up; raises
    SuperviseError when one did not, whose definition then stays as it was.
    """
    check_names(state_dir, names)
    services = load_services(state_dir)
    supervisor = connect(state_dir)
    running = supervisor.processes() if supervisor else {}
    touched = []
    for name in names:
        service = services[name] | {"release": release}
        if supervisor and running[name]["pid"] and take_up_release(supervisor, service):
            touched.append(name)
        _write_definition(state_dir / "services.d" / f"{name}.json", service)
    return touched


def _write_definition(path: Path, service: dict[str, Any]) -> None:
    """As the service role writes it."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(service, indent=4) + "\n")
    temporary.chmod(0o644)
    temporary.replace(path)


def _story(service: dict[str, Any], what: str) -> str:
    """What happened, the end of the log, and where to look next."""
    log = Path(service["log"])
    try:
        tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        tail = [f"(its log cannot be read: {error.strerror})"]
    return "\n".join(
        [
            f"{what}; expected it on {service['host']}:{service['port']}.",
            f"The end of {log}:",
            *(f"  {line[:160]}" for line in tail),
            f"See more with: ./console.sh logs {service['name']}",
        ]
    )


def stop(state_dir: Path, names: Sequence[str]) -> list[str]:
    """Stops the named services, or everything and the supervisor when none is named."""
    supervisor = connect(state_dir)
    if supervisor is None:
        return []
    if not names:
        pid = supervisor.pid()
        stopped = [n for n, info in supervisor.processes().items() if info["pid"]]
        supervisor.shutdown()
        _wait_for_end(pid)
        return sorted(stopped)
    check_names(state_dir, names)
    running = supervisor.processes()
    stopped = [name for name in names if running[name]["pid"]]
    for name in names:
        supervisor.stop(name)
    return sorted(stopped)


def check_names(state_dir: Path, names: Iterable[str]) -> None:
    """Raises SuperviseError when one is not the name of a service."""
    services = load_services(state_dir)
    if unknown := [name for name in names if name not in services]:
        raise SuperviseError(
            f"there is no service {', '.join(unknown)}; expected one of {', '.join(services)}.\n"
            f"See what there is: ./console.sh status"
        )


def _has_ended(pid: int) -> bool:
    """Whether it runs no more, though a container's first process may never ask how it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while not _has_ended(pid):
        if time.monotonic() > deadline:
            raise SuperviseError(
                f"supervisord (pid {pid}) has not ended within {STOP_SECONDS:.0f} seconds.\n"
                f"See what it waits for: ./console.sh logs supervisord"
            )
        time.sleep(0.1)


def restart(state_dir: Path, names: Sequence[str]) -> list[str]:
    """Stops and starts the named services, or all of them, in order; waits until they answer."""
    supervisor = connect(state_dir)
    if supervisor is None:
        raise SuperviseError(
            "nothing runs, so there is nothing to restart. Run: ./console.sh start"
        )
    services = load_services(state_dir)
    chosen = list(names) or list(services)
    stop(state_dir, chosen[::-1])
    for name in chosen:
        supervisor.start(name)
        wait_until_up(supervisor, services[name])
    return chosen


def report(changed: Iterable[str], as_json: bool) -> None:
    """Prints what was touched, for people or for Ansible."""
    names = list(changed)
    if as_json:
        json.dump({"changed": names}, sys.stdout)
        print()
    else:
        print("changed: " + (", ".join(names) or "nothing"))
