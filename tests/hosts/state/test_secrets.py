"""The secrets' real values are looked for everywhere that somebody else could look."""

from __future__ import annotations

from support.hosts import FOLDER, Host
from support.shown import SHOWN, everything_shown


def values(host: Host) -> dict[str, bytes]:
    """The secrets of a host, as the host has them."""
    found = {}
    for path in host.lines("find /etc/llamakit/secrets -type f"):
        found[path] = host.system.run(f"cat {path}").stdout_bytes.strip()
    found = {path: value for path, value in found.items() if "certificate" not in path}
    assert len(found) >= 3
    return found


def test_no_secret_is_to_be_seen_on_the_host(host: Host) -> None:
    secrets = values(host)
    for place in SHOWN:
        seen = everything_shown(host, place)
        for path, value in secrets.items():
            assert value not in seen, f"{path} is to be seen in {place}"


def test_the_services_have_them_as_credentials_alone(host: Host) -> None:
    secrets = values(host)
    for name, pid in host.pids().items():
        environment = host.system.run(f"cat /proc/{pid}/environ").stdout_bytes
        assert b"CREDENTIALS_DIRECTORY=" in environment, name
        assert not [path for path, value in secrets.items() if value in environment], name


def test_ansible_has_shown_none(host: Host) -> None:
    """Neither the screen of any run so far nor its differences."""
    shown = (FOLDER / "ansible.log").read_bytes()
    assert b"PLAY RECAP" in shown
    for path, value in values(host).items():
        assert value not in shown, f"{path} is in Ansible's output"
