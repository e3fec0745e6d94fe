"""Talks to systemd about many units at once: one call of systemctl, not one for each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

# Runs a command line; its exit status, output and errors.
Run = Callable[[list[str]], tuple[int, str, str]]

PROPERTIES = "Id,LoadState,ActiveState,SubState,NRestarts,NeedDaemonReload"


class SystemdError(Exception):
    """systemctl did not do as asked; the message is for people."""


@dataclass(frozen=True)
class Unit:
    """What systemd says about a unit."""

    load: str
    active: str
    sub: str
    restarts: int  # by systemd's own doing, since it was last started on purpose
    outdated: bool  # its file is another than the one systemd has read

    @property
    def up(self) -> bool:
        """It runs, listens or, as a timer, waits."""
        return self.active in {"active", "reloading"}

    @property
    def idle(self) -> bool:
        """Nothing of it runs, nor will without being asked to."""
        return self.active in {"inactive", "failed"}

    @property
    def down(self) -> bool:
        """It has to be started; also when it is just being stopped."""
        return self.idle or self.active == "deactivating"

    @property
    def story(self) -> str:
        """The state in words, such as ``activating (auto-restart), restarted 3 times``."""
        again = f", restarted {self.restarts} times" if self.restarts else ""
        return f"{self.active} ({self.sub}){again}"


class Systemd:
    """The system's manager, or a user's own."""

    def __init__(self, run: Run, scope: str) -> None:
        self._run = run
        self._scope = [f"--{scope}"]

    def show(self, units: Collection[str]) -> dict[str, Unit]:
        """Every unit of ``units`` by name, those that do not exist as well."""
        if not units:
            return {}
        output = self._call(["show", f"--property={PROPERTIES}", "--", *units])
        found = {}
        for block in output.strip().split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found[values["Id"]] = Unit(
                load=values["LoadState"],
                active=values["ActiveState"],
                sub=values["SubState"],
                restarts=int(values.get("NRestarts") or 0),
                outdated=values["NeedDaemonReload"] == "yes",
            )
        if missing := set(units) - set(found):
            raise SystemdError(f"systemctl show said nothing of {', '.join(sorted(missing))}")
        return found

    def act(self, verb: str, units: Collection[str], *options: str) -> None:
        """Does ``verb`` to all units, in the order that systemd finds; nothing for none.

        Raises:
            SystemdError: it did not succeed for each of them.
        """
        if units:
            self._call([verb, *options, "--", *units])

    def reload(self) -> None:
        """Lets systemd read the units' files again."""
        self._call(["daemon-reload"])

    def said(self, units: Collection[str], log: str, lines: int) -> list[str]:
        """The last lines of their log: the file of that name, the journal when it is empty."""
        if log:
            command = ["tail", f"--lines={lines}", "--", log]
        else:
            # The manager's own lines about a unit are among them, such as why it did not start.
            kind = "--user-unit" if self._scope == ["--user"] else "--unit"
            command = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}"]
            command += [f"{kind}={unit}" for unit in units]
        _, output, errors = self._run(command)
        return (output or errors).splitlines()[-lines:] or ["(nothing)"]

    def _call(self, arguments: list[str]) -> str:
        command = ["systemctl", *self._scope, "--no-pager", "--no-ask-password", *arguments]
        status, output, errors = self._run(command)
        if status != 0:
            said = errors.strip() or output.strip() or f"exit status {status}"
            raise SystemdError(f"{' '.join(command)}\nsaid: {said}")
        return output
