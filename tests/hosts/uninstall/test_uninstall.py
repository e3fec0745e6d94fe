"""A deployment that is removed, first without and then with what people made in it."""

from __future__ import annotations

import re

from support.hosts import Host, play
from support.snapshot import bare, take

# What may differ from the bare host, and why.
ALLOWED = {
    r"/var/(log|cache|lib/(apt|dpkg|systemd|ucf|python))(/|$)": "what the system keeps of its own",
    r"/etc/(ld\.so\.cache|(passwd|group|shadow|gshadow|subuid|subgid)-?|\.pwd\.lock)$": "rewritten "
    "by adding and removing users and packages",
    r"^(users|groups): \+ (postgres|ssl-cert):": "a package's account, which Debian never removes",
    r"/(root|tmp|var/tmp)(/|$)": "Ansible's and systemd's temporary files",
    r"/etc/default/locale$": "a link that the package locales takes with it when it goes",
    r"/usr/(lib|share)/python3(/|$).*__pycache__": "what Python has compiled",
}


def differences(host: Host) -> list[str]:
    """What is there and was not, or was and is not; without what is allowed."""
    before, after = bare(host), take(host)
    found = []
    for kind, lines in before.items():
        for sign, some in (
            ("-", set(lines) - set(after[kind])),
            ("+", set(after[kind]) - set(lines)),
        ):
            found += [f"{kind}: {sign} {line}" for line in sorted(some)]
    return [line for line in found if not any(re.search(path, line) for path in ALLOWED)]


def test_without_purge_people_and_their_keys_stay(hosts: list[Host]) -> None:
    keys = {host.name: host.new_key("stays") for host in hosts}
    play("playbooks/uninstall.yml")
    for host in hosts:
        # Newer ones of systemd call it a failure when there is none.
        assert host.lines("systemctl list-unit-files 'llamakit*' --no-legend || true") == []
        assert host.lines("pgrep --uid llamakit || true") == []
        assert host.lines("ls -d /opt/llamakit /usr/local/bin/llamakit* 2>/dev/null || true") == []
    play()
    for host in hosts:
        with host.openai(keys[host.name]) as client:
            assert [model.id for model in client.models.list()] == ["script", "embed"]


def test_with_purge_the_host_is_as_it_was(hosts: list[Host]) -> None:
    # Also after an uninstall, which leaves no program of the kit on the host.
    play("playbooks/uninstall.yml")
    play("playbooks/uninstall.yml", llamakit_purge=True)
    found = [f"{host.name}: {line}" for host in hosts for line in differences(host)]
    assert not found, "\n".join(found)
    # There is nothing left to remove, and that is no fault.
    play("playbooks/uninstall.yml", llamakit_purge=True)
