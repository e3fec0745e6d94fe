"""The hosts of a molecule scenario: asked as root, deployed as an operator does it."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import testinfra
import yaml

from .podman import CHECKOUT, container_name, podman

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
INVENTORY = CHECKOUT / "molecule" / SCENARIO / "inventory"
FOLDER = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", "/nonexistent"))
"""What Molecule keeps of this run: the log, the secrets, the instances' addresses."""


class Host:
    """One host of the scenario's inventory.

    Attributes:
        name: its name in the inventory.
        system: testinfra's view of it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.container = container_name(SCENARIO, name)
        self.system = testinfra.get_host(f"podman://{self.container}")

    def run(self, command: str) -> str:
        """The output of a shell command that root runs there, which has to succeed."""
        result = self.system.run(command)
        assert result.rc == 0, f"{self.name}: {command}\n{result.stdout}{result.stderr}"
        return str(result.stdout).strip()

    def lines(self, command: str) -> list[str]:
        """The same, by line."""
        return self.run(command).splitlines()

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd says of a unit."""
        output = self.run(f"systemctl show {unit} --property={','.join(names)}")
        return dict(line.split("=", 1) for line in output.splitlines())

    def services(self) -> list[str]:
        """The kit's services that run all the time, without their suffix."""
        listed = self.run("systemctl list-unit-files 'llamakit-*.service' --plain --no-legend")
        names = [line.split()[0].removesuffix(".service") for line in listed.splitlines()]
        timed = self.run("systemctl list-unit-files 'llamakit-*.timer' --plain --no-legend")
        timers = [line.split()[0].removesuffix(".timer") for line in timed.splitlines()]
        return sorted(set(names) - set(timers))

    def pids(self) -> dict[str, int]:
        """The main process of each of them."""
        return {
            name: int(self.properties(f"{name}.service", "MainPID")["MainPID"])
            for name in self.services()
        }

    def status(self) -> dict[str, Any]:
        """``llamakit status --json``, whatever its exit status."""
        output = self.system.run("llamakit status --state-dir /var/lib/llamakit --json").stdout
        status: dict[str, Any] = json.loads(output)
        return status

    def up(self) -> bool:
        return bool(self.status()["overall"] == "up")

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """Its addresses, and what its inventory says of TLS."""
        address = yaml.safe_load((FOLDER / "inventory" / f"{self.name}.yml").read_text())
        listed = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
        groups = listed["all"]["children"]["llm_hosts"]["children"]
        given = next(g["hosts"][self.name] for g in groups.values() if self.name in g["hosts"])
        return {**given, **address["all"]["hosts"][self.name]}

    @property
    def secrets(self) -> Path:
        """Where the controller keeps this host's secrets."""
        return FOLDER / "secrets" / self.name

    @property
    def url(self) -> str:
        """The endpoint as this machine reaches it."""
        scheme = "https" if "auth_proxy_tls" in self.variables else "http"
        return f"{scheme}://127.0.0.1:{self.variables['instance_proxy_port']}"

    def http(self, key: str | None = None) -> httpx.Client:
        """A client that trusts the host's own certificate and no other."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=self._trust()
        )

    def openai(self, key: str) -> openai.OpenAI:
        """OpenAI's own client."""
        transport = openai.DefaultHttpxClient(trust_env=False, verify=self._trust())
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=transport
        )

    def _trust(self) -> ssl.SSLContext | bool:
        if self.url.startswith("https"):
            return ssl.create_default_context(cafile=self.secrets / "tls_certificate.pem")
        return True

    def new_key(self, user: str) -> str:
        """A key of a new user."""
        return self.run(f"llamakit-users user create --username {user}")

    def restart(self) -> None:
        """What a power switch does, but in order; returns when systemd has started again."""
        podman("restart", "--time=60", self.container)
        wait_for(lambda: self.system.run("systemctl is-system-running").stdout.strip() != "", 30)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of ansible-playbook that has ended."""

    code: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.MULTILINE)
        return {name: int(count) for name, count in found}


def play(
    playbook: str = "site.yml",
    *arguments: str,
    hosts: str = "all",
    checkout: Path = CHECKOUT,
    expect: int = 0,
    **variables: Any,
) -> Run:
    """Runs a playbook against the scenario's hosts and expects that exit status."""
    began = time.monotonic()
    run = subprocess.run(
        command(playbook, *arguments, hosts=hosts, checkout=checkout, **variables),
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment(checkout),
    )
    result = Run(run.returncode, run.stdout + run.stderr, time.monotonic() - began)
    assert result.code == expect, f"exit status {result.code}, expected {expect}:\n{result.output}"
    return result


def command(
    playbook: str,
    *arguments: str,
    hosts: str = "all",
    checkout: Path = CHECKOUT,
    **variables: Any,
) -> list[str]:
    """What runs a playbook. The settings of Ansible are in the environment, by Molecule."""
    inventory = checkout / INVENTORY.relative_to(CHECKOUT)
    if checkout != CHECKOUT:
        variables["llamakit_checkout"] = str(checkout)
        # The hosts of this checkout, with that one's variables.
        for folder in (INVENTORY, CHECKOUT / "molecule" / "common"):
            there = checkout / folder.relative_to(CHECKOUT)
            if not there.exists():
                shutil.copytree(folder, there, symlinks=True)
    return [
        "ansible-playbook",
        *(f"--inventory={folder}" for folder in (FOLDER / "inventory", inventory)),
        f"--limit={hosts}",
        f"--extra-vars={json.dumps(variables)}",
        *arguments,
        str(checkout / playbook),
    ]


def environment(checkout: Path = CHECKOUT) -> dict[str, str]:
    """Molecule's environment, without the colours that would hide words in the output; for another
    checkout with that one's roles and plugins."""
    found = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    found.pop("ANSIBLE_FORCE_COLOR", None)
    if checkout != CHECKOUT:
        plugins = checkout / "playbooks" / "plugins"
        found |= {
            "ANSIBLE_ROLES_PATH": str(checkout / "roles"),
            "ANSIBLE_LIBRARY": str(plugins / "modules"),
            "ANSIBLE_ACTION_PLUGINS": str(plugins / "action"),
            "ANSIBLE_FILTER_PLUGINS": str(plugins / "filter"),
            "ANSIBLE_MODULE_UTILS": str(plugins / "module_utils"),
            "PYTHONPATH": str(checkout / "files" / "kit" / "src"),
        }
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Until the condition holds.

    Raises:
        AssertionError: when it does not, in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


def names() -> Iterable[str]:
    """The hosts of the scenario's inventory."""
    listed = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
    for group in listed["all"]["children"]["llm_hosts"]["children"].values():
        yield from group["hosts"]
