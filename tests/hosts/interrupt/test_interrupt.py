"""A deployment killed at ten points, then run to its end, is the same as one that was not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from typing import Any

from support.hosts import Host, command, environment, play

KILLS = 10
# Into the task, so that most kills hit one at work.
LATER_SECONDS = 0.7
# Units and settings tell them apart by a digest, which a host's own salt goes into.
SAME: dict[str, Any] = {
    "llamakit_secrets_salt": "the-same-on-both",
    "llamakit_secrets_given": {
        name: f"the-same-on-both-{name}"
        for name in (
            "llama_api_key",
            "postgres_superuser_password",
            "postgres_admin_password",
            "postgres_proxy_password",
        )
    },
}
# Everything that the kit has put there, with its content; what only tells of the past, or is named
# after a process, is left out.
STATE = (
    "find /etc/llamakit /opt/llamakit /var/lib/llamakit /usr/local/bin /etc/systemd/system "
    "/etc/postgresql -xdev \\( -name __pycache__ -o -path /var/lib/llamakit/backups -o "
    "-path /var/lib/llamakit/run -o -path /var/lib/llamakit/spool -o -path '*/started.d' \\) "
    "-prune -o \\( -type f -o -type l \\) "
    "-printf '%y %m %u:%g %p %l ' -exec sh -c 'sha256sum < \"$0\" | cut -c1-16' {} \\; | sort"
)


def kill_at(task: int) -> bool:
    """Runs the deployment and kills it in its task of that number; False when it ended before."""
    process = subprocess.Popen(
        command("site.yml", hosts="killed", **SAME),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout
    seen = 0
    for line in process.stdout:
        seen += line.startswith("TASK [")
        if seen == task:
            time.sleep(LATER_SECONDS)
            break
    ended = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    return not ended


def state(host: Host) -> set[str]:
    """The kit's files on a host, whatever its name."""
    return {
        line.replace(host.container, "HOST").replace(host.name, "HOST")
        for line in host.lines(STATE)
    }


def test_it_ends_as_if_it_had_not_been_killed(hosts: list[Host]) -> None:
    killed, spared = sorted(hosts, key=lambda host: host.name)
    run = play(hosts="spared", **SAME)
    tasks = len(re.findall(r"^TASK \[", run.output, re.MULTILINE))
    for number in range(1, KILLS + 1):
        point = number * tasks // (KILLS + 1)
        if not kill_at(point):
            # A host on which most is done takes fewer tasks; the late points are a bare host's.
            play("playbooks/uninstall.yml", hosts="killed", llamakit_purge=True)
            assert kill_at(point), f"kill {number} came too late"
    play(hosts="killed", **SAME)
    assert set(play(**SAME).changed.values()) == {0}
    assert killed.services() == spared.services()
    assert killed.up()
    assert state(killed) ^ state(spared) == set()
