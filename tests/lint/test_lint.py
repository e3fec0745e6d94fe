"""What programs that read the sources find in them: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
CHECKS = {
    "ansible-lint": "ansible-lint -q --nocolor",
    "mypy": "mypy --no-error-summary --hide-error-context files/*/src playbooks/plugins tests "
    "benchmarks",
    "ruff": "ruff check --quiet --output-format concise .",
    "ruff format": "ruff format --check files tests benchmarks",
    "shellcheck": "shellcheck --external-sources ./*.sh files/console/*.sh bin/*.sh tests/*.sh "
    ".ci/run",
    "yamllint": "yamllint --strict .",
}


@pytest.mark.parametrize("name", CHECKS)
def test_there_is_nothing_to_find(name: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-c", CHECKS[name]],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if run.returncode:
        pytest.fail(f"{CHECKS[name]}\n{run.stdout}{run.stderr}", pytrace=False)
