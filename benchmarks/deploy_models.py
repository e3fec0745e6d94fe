"""What each further model adds to a run that changes nothing.

    molecule converge -s default
    python -m benchmarks.deploy_models

On the hosts of the scenario default: a run with its own models, then with twenty more copies of a
small one. The exit status is 1 when a model adds a second or more. The hosts have their own models
again afterwards.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from .deployed import CHECKOUT, MissingHostsError, enter, write

LIMIT_SECONDS = 1.0
MODELS = CHECKOUT / "molecule" / "common" / "config" / "models.yaml"


def more_models(text: str, copies: int) -> str:
    """A models.yaml with its first model so many times more, under other names."""
    config = yaml.safe_load(text)
    first = config["models"][0]
    config["models"] += [
        {"id": f"copy-{number:02}", "source": first["source"]} for number in range(1, copies + 1)
    ]
    return yaml.safe_dump(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="unchanged runs; the fastest counts")
    parser.add_argument("--hosts", default="cpu01")
    options = parser.parse_args()
    try:
        enter("default")
    except MissingHostsError as error:
        sys.exit(str(error))
    from support.hosts import play

    def unchanged(**variables: Any) -> float:
        """The first run may change something, the others must not."""
        play(hosts=options.hosts, **variables)
        seconds = []
        for _ in range(options.rounds):
            run = play(hosts=options.hosts, **variables)
            if any(run.changed.values()):
                sys.exit(f"a second run changed something: {run.changed}\n{run.output[-2000:]}")
            seconds.append(run.seconds)
        return min(seconds)

    own = unchanged()
    with tempfile.TemporaryDirectory(prefix="llamakit-bench-") as folder:
        models = Path(folder) / "models.yaml"
        models.write_text(more_models(MODELS.read_text(), options.copies))
        try:
            more = unchanged(llama_server_models_file=str(models))
        finally:
            play(hosts=options.hosts)
    each = (more - own) / options.copies
    write(
        "deploy_models",
        {"own_seconds": own, "more_seconds": more, "copies": options.copies, "each_seconds": each},
    )
    sys.exit(0 if each < LIMIT_SECONDS else f"each model adds {each:.2f} s; expected less than 1 s")


if __name__ == "__main__":
    main()
