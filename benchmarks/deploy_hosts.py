"""How much longer ten hosts take than one, in one run: at first, and when nothing is to be changed.

    molecule converge -s default
    python -m benchmarks.deploy_hosts [--cpus 0.15]

The scenario default has been deployed before, so that the controller has its environment and the
wheelhouse: what is measured is hosts alone. They are those of the scenario scale, made bare for
this and gone afterwards: the first is deployed alone, then the ten others together. The exit status
is 1 when either takes three times as long or more.

They share the cores of this machine, so ten take at least the time that their own work takes on
these. With ``--cpus`` each host has so much of a core and no more, as if it were a slow machine of
its own. Ten such shares have to leave the controller something, or it is what is waited for.
"""

from __future__ import annotations

import argparse
import sys

from support.podman import container_name, podman

from .deployed import MissingHostsError, enter, molecule, write

SCENARIO = "scale"
LIMIT = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the hosts there afterwards")
    parser.add_argument("--cpus", type=float, help="so many cores for each host, 0.15 say")
    options = parser.parse_args()
    molecule("destroy", SCENARIO)
    try:
        molecule("create", SCENARIO)
        molecule("prepare", SCENARIO)
        found = _measure(options.cpus)
        write("deploy_hosts", found)
    finally:
        if not options.keep:
            molecule("destroy", SCENARIO)
    slow = [name for name in ("first", "unchanged") if found[f"{name}_times"] >= LIMIT]
    sys.exit(f"ten hosts take {LIMIT:g} times as long as one or more: {slow}" if slow else 0)


def _measure(cpus: float | None) -> dict[str, float]:
    try:
        enter(SCENARIO)
    except MissingHostsError as error:
        sys.exit(str(error))
    from support.hosts import names, play

    first, *others = sorted(names())
    found: dict[str, float] = {}
    if cpus is not None:
        found["cpus"] = cpus
        for host in (first, *others):
            podman("update", f"--cpus={cpus}", container_name(SCENARIO, host))
    for name in ("first", "unchanged"):
        one, ten = play(hosts=first).seconds, play(hosts=",".join(others)).seconds
        found |= {
            f"{name}_one_seconds": one,
            f"{name}_ten_seconds": ten,
            f"{name}_times": ten / one,
        }
    return found


if __name__ == "__main__":
    main()
