"""How much longer ten hosts take than one, in one run.

    molecule converge -s default
    python -m benchmarks.deploy_hosts

The scenario default has been deployed before, so that the controller has its environment and the
wheelhouse: what is measured is hosts alone. They are those of the scenario scale, made bare for
this and gone afterwards: the first is deployed alone, then the ten others together. The exit status
is 1 when they take three times as long or more.
"""

from __future__ import annotations

import argparse
import sys

from .deployed import MissingHostsError, enter, molecule, write

SCENARIO = "scale"
LIMIT = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the hosts there afterwards")
    options = parser.parse_args()
    molecule("destroy", SCENARIO)
    try:
        molecule("create", SCENARIO)
        molecule("prepare", SCENARIO)
        one, ten = _measure()
        write("deploy_hosts", {"one_seconds": one, "ten_seconds": ten, "times": ten / one})
    finally:
        if not options.keep:
            molecule("destroy", SCENARIO)
    sys.exit(0 if ten / one < LIMIT else f"ten hosts take {ten / one:.1f} times as long as one")


def _measure() -> tuple[float, float]:
    try:
        enter(SCENARIO)
    except MissingHostsError as error:
        sys.exit(str(error))
    from support.hosts import names, play

    first, *others = sorted(names())
    one = play(hosts=first).seconds
    return one, play(hosts=",".join(others)).seconds


if __name__ == "__main__":
    main()
