#!/usr/bin/python
"""Brings the systemd units of services to what their definitions say, in one execution."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.llamakit_service import Service, Stamps, load, save
from ansible.module_utils.llamakit_systemd import Systemd, SystemdError, Unit
from ansible.module_utils.llamakit_waiting import Failure, explain, live_releases, wait

DOCUMENTATION = """
module: apply_units
short_description: start, stop, restart, reload and remove systemd units of llamakit, many at once
description:
  - V(applied) stops and removes what nobody wants any more, enables and starts what should run, and
    restarts what runs with something else than its definition and its unit's file say. A service
    that differs in its release alone is reloaded. It waits until each answers, and notes last what
    it was started with, so that a run that died is made good by the next one.
  - V(reloaded) has services take up O(release), which their definitions then name; what does not
    run will start with it.
  - Two runs at once do one after the other.
options:
  action:
    type: str
    choices: [applied, started, stopped, restarted, reloaded, removed]
    default: applied
  scope: {type: str, choices: [system, user], description: whose manager has the units}
  prefix: {type: str, description: what the units' names begin with; the target is named by it}
  unit_dir: {type: path, description: where the units' files are}
  state_dir: {type: path, description: has services.d and started.d}
  logs_dir: {type: str, description: where services log to; empty means the journal}
  owner: {type: str, description: services whose names begin so and are not in O(services) go}
  services: {type: list, elements: dict, description: the definitions, for V(applied)}
  names: {type: list, elements: str, description: which services a verb means; none is all}
  release: {type: str, description: for V(reloaded)}
"""
LOCK_SECONDS = 600.0
KINDS = (".service", ".socket", ".timer", ".target")
VERBS = ("enabled", "started", "restarted", "reloaded", "stopped", "removed")


class Applier:
    """Does one action and notes what it changed."""

    def __init__(
        self, module: AnsibleModule, done: dict[str, list[str]], complaints: list[str]
    ) -> None:
        given = module.params
        self.check_mode: bool = module.check_mode
        self.scope: str = given["scope"]
        self.prefix: str = given["prefix"]
        self.unit_dir: str = given["unit_dir"]
        self.state_dir: str = given["state_dir"]
        self.target = f"{self.prefix.rstrip('-')}.target"
        self.systemd = Systemd(module.run_command, self.scope)
        self.stamps = Stamps(os.path.join(self.state_dir, "started.d"), self.unit_dir)
        self.done = done
        self.complaints = complaints

    def note(self, what: str, units: Iterable[str]) -> None:
        """Counts these as started, stopped, …"""
        self.done[what] += sorted(set(units))

    def attempt(self, verb: str, units: Collection[str], *options: str) -> None:
        """Acts on units of services that are awaited afterwards, which tells what came of it."""
        try:
            self.systemd.act(verb, units, *options)
        except SystemdError as error:
            self.complaints.append(str(error))

    def applied(self, owner: str, services: list[Service]) -> list[Failure]:
        """Brings everything of ``owner`` to what the definitions say; what does not answer."""
        wanted = [unit for service in services for unit in service.units]
        orphans = self.orphans(owner, services)
        known = self.systemd.show({*wanted, *orphans, self.target})
        self.drop(orphans, known)
        self.drop_definitions(owner, {service.name for service in services})
        if any(known[unit].outdated for unit in wanted) and not self.check_mode:
            self.systemd.reload()
        if services:
            self.enable([unit for service in services for unit in service.lasting])
        touched = self.bring_up(services, known)
        if self.check_mode:
            self.take_up_releases([s for s in services if s.unit not in touched])
            return []
        if touched:
            known = self.systemd.show({*wanted, self.target})
        if services and not known[self.target].up:
            # Without its dependencies: whoever was stopped on purpose stays so.
            self.systemd.act("start", [self.target], "--job-mode=ignore-dependencies")
        failures: list[Failure] = wait(self.systemd, [s for s in services if not s.timer], known)
        failed = [failure.service.unit for failure in failures]
        for unit, hash_ in hashes(services).items():
            if unit not in failed and (known[unit].up or not unit.endswith(".socket")):
                self.stamps.write(unit, hash_)
        return failures + self.take_up_releases([s for s in services if s.unit not in failed])

    def orphans(self, owner: str, services: list[Service]) -> list[str]:
        """Units on disk that nobody wants: the owner's, and a socket that a service has lost."""
        wanted = {unit for service in services for unit in service.units}
        names = {unit.rpartition(".")[0] for unit in wanted}
        return [
            unit
            for unit in self.units_on_disk()
            if unit not in wanted
            and (unit.rpartition(".")[0] in names or self.belongs(unit, owner))
        ]

    def belongs(self, unit: str, owner: str) -> bool:
        """Whether a unit is the owner's by its name; without an owner none is."""
        return bool(owner) and unit.startswith(self.prefix + owner)

    def ours(self, name: str) -> bool:
        """Whether something has this deployment's prefix. A checkout that root runs on the same
        machine has six digits after it."""
        return bool(re.match(rf"{re.escape(self.prefix)}(?![0-9a-f]{{6}}[-.])", name))

    def units_on_disk(self) -> list[str]:
        """Every unit of this deployment that has a file, but for the target."""
        if not os.path.isdir(self.unit_dir):
            return []
        return sorted(
            name
            for name in os.listdir(self.unit_dir)
            if self.ours(name)
            and name.endswith(KINDS)
            and os.path.isfile(os.path.join(self.unit_dir, name))
        )

    def drop(self, units: list[str], known: dict[str, Unit]) -> None:
        """Stops, disables and removes units; their files last, so that nothing is forgotten."""
        self.note("stopped", (unit for unit in units if not known[unit].down))
        self.note("removed", units)
        if not units or self.check_mode:
            return
        self.systemd.act("stop", units)
        failed = [u for u, state in self.systemd.show(units).items() if state.active == "failed"]
        self.systemd.act("reset-failed", failed)
        # A timer remembers in a file when it last ran.
        timers = [unit for unit in units if unit.endswith(".timer")]
        self.systemd.act("clean", timers, "--what=state")
        self.systemd.act("disable", units)
        self.stamps.remove(units)
        for unit in units:
            os.unlink(os.path.join(self.unit_dir, unit))
        self.systemd.reload()

    def drop_definitions(self, owner: str, wanted: Collection[str]) -> None:
        """Removes the owner's definitions that nobody wants any more."""
        for service in load(self.state_dir, self.prefix) if owner else []:
            if service.name.startswith(owner) and service.name not in wanted:
                file = os.path.join(self.state_dir, "services.d", f"{service.name}.json")
                self.note("removed", [file])
                if not self.check_mode:
                    os.unlink(file)

    def enable(self, units: list[str]) -> None:
        """Lets the target start at boot, and the units with the target."""
        boot = "multi-user.target" if self.scope == "system" else "default.target"
        wants = dict.fromkeys(units, self.target) | {self.target: boot}
        missing = [
            unit
            for unit, by in wants.items()
            if not os.path.islink(os.path.join(self.unit_dir, f"{by}.wants", unit))
        ]
        self.note("enabled", missing)
        if not self.check_mode:
            # Unlike `enable`, this drops what an earlier [Install] section has left.
            self.systemd.act("reenable", missing)

    def bring_up(self, services: list[Service], known: dict[str, Unit]) -> set[str]:
        """Starts and restarts what needs it; the units that were touched."""
        right = {
            unit: self.stamps.right(unit, hash_) and not known[unit].outdated
            for unit, hash_ in hashes(services).items()
        }
        touched: set[str] = set()
        for service in services:
            if service.definition.get("rewritten"):
                right[service.unit] = False
            due = {unit for unit in service.lasting if known[unit].down or not right[unit]}
            # What a socket listens on changes only while no service has it.
            touched |= {*service.lasting} if service.socket in due else due
        self.note("started", (unit for unit in touched if known[unit].down))
        self.note("restarted", (unit for unit in touched if not known[unit].down))
        if not self.check_mode:
            self.stamps.remove(touched)
            listening = [service for service in services if service.socket in touched]
            self.attempt("stop", [u for s in listening for u in (s.socket, s.unit)])
            self.attempt("restart", touched)
        return touched

    def take_up_releases(self, services: list[Service]) -> list[Failure]:
        """Reloads those that run another release than theirs; those that go on with it."""
        releasing = [service for service in services if service.release]
        live = live_releases(releasing)
        behind = [service for service in releasing if live[service.name] != service.release]
        units = [service.unit for service in behind]
        self.note("reloaded", units)
        if not behind or self.check_mode:
            return []
        self.systemd.act("reload", units)
        failures: list[Failure] = wait(self.systemd, behind, self.systemd.show(units), release=True)
        return failures

    def chosen(self, names: list[str]) -> list[Service]:
        """The services of that name, all when none is named."""
        services = load(self.state_dir, self.prefix)
        present = [service.name for service in services]
        if unknown := [name for name in names if name not in present]:
            raise SystemdError(
                f"there is no service {', '.join(unknown)}; "
                f"expected one of {', '.join(present) or 'none, as nothing is deployed'}.\n"
                f"See what there is with the verb status."
            )
        return [service for service in services if not names or service.name in names]

    def started(self, names: list[str]) -> list[Failure]:
        """Starts what is stopped."""
        services = self.chosen(names)
        units = [unit for service in services for unit in service.lasting]
        return self.launch(services, units, restart=[], everything=not names)

    def restarted(self, names: list[str]) -> list[Failure]:
        """Restarts the services; their sockets go on listening meanwhile."""
        services = self.chosen(names)
        units = [unit for service in services for unit in service.lasting]
        restart = [service.unit for service in services if not service.timer]
        return self.launch(services, units, restart=restart, everything=not names)

    def launch(
        self, services: list[Service], units: list[str], *, restart: list[str], everything: bool
    ) -> list[Failure]:
        known = self.systemd.show({*units, self.target})
        down = [unit for unit in units if known[unit].down]
        again = [unit for unit in restart if not known[unit].down]
        self.note("started", down)
        self.note("restarted", again)
        if self.check_mode:
            return []
        if any(state.outdated for state in known.values()):
            self.systemd.reload()
        self.attempt("restart", down + again)
        if everything and units and not known[self.target].up:
            self.systemd.act("start", [self.target], "--job-mode=ignore-dependencies")
        failures: list[Failure] = wait(
            self.systemd, [s for s in services if not s.timer], self.systemd.show(units)
        )
        return failures

    def stopped(self, names: list[str]) -> list[Failure]:
        """Stops them, their sockets and timers; without names also the target."""
        units = [unit for service in self.chosen(names) for unit in service.units]
        units += [] if names else [self.target]
        running = [unit for unit, state in self.systemd.show(units).items() if not state.idle]
        self.note("stopped", running)
        if not self.check_mode:
            self.systemd.act("stop", running)
        return []

    def reloaded(self, names: list[str], release: str) -> list[Failure]:
        """Has them take up a release; the definitions of those that do name it from then on."""
        services = [
            Service({**service.definition, "release": release}, self.prefix)
            for service in self.chosen(names)
        ]
        known = self.systemd.show([service.unit for service in services])
        failures = self.take_up_releases([s for s in services if known[s.unit].up])
        failed = [failure.service.name for failure in failures]
        for service in services:
            if service.name not in failed and not self.check_mode:
                save(service, self.state_dir)
        return failures

    def removed(self) -> list[Failure]:
        """Removes every unit and what belongs to it: the mirror of everything above."""
        units = self.units_on_disk()
        if os.path.isfile(os.path.join(self.unit_dir, self.target)):
            units.append(self.target)
        self.drop(units, self.systemd.show(units))
        wants = glob.glob(os.path.join(glob.escape(self.unit_dir), "*.wants"))
        folders = [folder for folder in wants if self.ours(os.path.basename(folder))]
        folders += [os.path.join(self.unit_dir, f"{self.target}.wants")]
        folders += [os.path.join(self.state_dir, name) for name in ("started.d", "services.d")]
        for folder in filter(os.path.isdir, folders):
            self.note("removed", [folder])
            if not self.check_mode:
                shutil.rmtree(folder)
        return []


def hashes(services: list[Service]) -> dict[str, str]:
    """What each unit of the services is to run with, by its name."""
    return {unit: service.hash_of(unit) for service in services for unit in service.units}


@contextmanager
def alone(state_dir: str) -> Iterator[None]:
    """Waits until no other run is at work here. The lock ends with the process, however it ends."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SystemdError(
                        f"another deployment has been at work in {state_dir} for "
                        f"{LOCK_SECONDS:.0f} s; expected it to end.\n"
                        f"See which: fuser --verbose {state_dir}"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(folder)


def act(applier: Applier, given: dict[str, Any]) -> list[Failure]:
    """Does what is asked; the services that do not answer afterwards."""
    logs_dir = given["logs_dir"]
    if given["action"] == "applied":
        services = [
            Service({"log": logs_dir and f"{logs_dir}/{each['name']}.log", **each}, applier.prefix)
            for each in given["services"]
        ]
        return applier.applied(given["owner"], services)
    if given["action"] == "removed":
        return applier.removed()
    if given["action"] == "reloaded":
        return applier.reloaded(given["names"], given["release"])
    verb = {"started": applier.started, "stopped": applier.stopped}
    return verb.get(given["action"], applier.restarted)(given["names"])


def main() -> None:
    # As modes are meant here, whatever the login's is.
    os.umask(0o022)
    module = AnsibleModule(
        argument_spec={
            "action": {
                "default": "applied",
                "choices": [
                    "applied", "started", "stopped", "restarted", "reloaded", "removed",
                ],
            },
            "scope": {"choices": ["system", "user"], "required": True},
            "prefix": {"required": True},
            "unit_dir": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "logs_dir": {"default": ""},
            "owner": {"default": ""},
            "services": {"type": "list", "elements": "dict", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "release": {"default": ""},
        },
        supports_check_mode=True,
    )
    done: dict[str, list[str]] = {verb: [] for verb in VERBS}
    complaints: list[str] = []
    try:
        state_dir = module.params["state_dir"]
        # Where nothing was deployed, or all of it was removed, there is no folder to lock.
        harmless = module.check_mode or not os.path.isdir(state_dir)
        with nullcontext() if harmless else alone(state_dir):
            applier = Applier(module, done, complaints)
            failures = act(applier, module.params)
            told = [explain(failure, applier.systemd, applier.scope) for failure in failures]
    except (SystemdError, OSError) as error:
        told = [str(error)]
    changes = {"changed": any(done.values()), **done}
    if told:
        module.fail_json(msg="\n\n".join(told + complaints), **changes)
    module.exit_json(**changes)


if __name__ == "__main__":
    main()
