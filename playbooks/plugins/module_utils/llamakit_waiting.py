"""Waits until services answer, all at the same time, and tells why one does not."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

from ansible.module_utils.llamakit_probe import answers, running_release
from ansible.module_utils.llamakit_service import Service
from ansible.module_utils.llamakit_systemd import Systemd, Unit

PROBE_SECONDS = 3.0
# From the first look to the later ones the pause grows, so that waiting for a large model is cheap.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
FAILED_STARTS = 3
LOG_LINES = 12
THREADS = 32


@dataclass(frozen=True)
class Failure:
    """A service that does not do as it should, and what was found in place of that."""

    service: Service
    found: str
    expected: str


def live_releases(services: Collection[Service]) -> dict[str, str | None]:
    """The release that each service says it runs, by its name."""
    with ThreadPoolExecutor(THREADS) as threads:
        said = threads.map(lambda s: running_release(s.definition, PROBE_SECONDS), services)
        return {service.name: release for service, release in zip(services, said, strict=True)}


def wait(
    systemd: Systemd,
    services: Collection[Service],
    known: dict[str, Unit],
    *,
    release: bool = False,
) -> list[Failure]:
    """Returns when each service answers or has failed; those that have.

    Args:
        known: what systemd says now, so that services that are well cost no further question.
        release: whether each has to answer with the release of its definition.
    """
    begun = time.monotonic()
    pending = {service.unit: service for service in services}
    restarts = {unit: known[unit].restarts for unit in pending}
    failures: list[Failure] = []
    pause = SHORTEST_PAUSE
    while True:
        with ThreadPoolExecutor(THREADS) as threads:
            states = [known[unit] for unit in pending]
            good = threads.map(_good, pending.values(), states, repeat(release))
            for service, is_good in zip(list(pending.values()), good, strict=True):
                if is_good:
                    del pending[service.unit]
        waited = time.monotonic() - begun
        for unit, service in list(pending.items()):
            state = known[unit]
            again = state.restarts - restarts[unit] >= FAILED_STARTS
            if waited > service.start_timeout or state.idle or again:
                del pending[unit]
                found = _found(service, state, waited, release)
                failures.append(Failure(service, found, _expected(service, release)))
        if not pending:
            return failures
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
        known = systemd.show(pending)


def _good(service: Service, state: Unit, release: bool) -> bool:
    if not state.up:
        return False
    if not service.definition.get("probe"):
        return True
    if release and running_release(service.definition, PROBE_SECONDS) != service.release:
        return False
    return bool(answers(service.definition, PROBE_SECONDS))


def _found(service: Service, state: Unit, waited: float, release: bool) -> str:
    found = f"{service.unit} is {state.story} and does not answer, {waited:.0f} s after the start"
    if release:
        said = running_release(service.definition, PROBE_SECONDS)
        if said is not None:
            found += f"; it runs release {said}"
    return found


def _expected(service: Service, release: bool) -> str:
    if not service.definition.get("probe"):
        return f"{service.unit} to be active"
    address = f"{service.definition['host']}:{service.definition['port']}"
    expected = f"an answer on {address} within {service.start_timeout:.0f} s"
    return f"{expected}, from release {service.release}" if release else expected


def explain(failure: Failure, systemd: Systemd, scope: str) -> str:
    """What was found, what was expected, the end of the log and the command that shows more."""
    service = failure.service
    more = f"./console.sh logs {service.name}"
    if scope == "system":
        more = f"journalctl --unit={service.unit}"
    return "\n".join(
        [
            f"{failure.found}.",
            f"Expected {failure.expected}. The end of its log:",
            *(f"  {line[:200]}" for line in systemd.said(service.units, service.log, LOG_LINES)),
            f"See more with: {more}",
        ]
    )
