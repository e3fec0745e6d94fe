"""OpenAI's JavaScript client, through the proxy to real model servers. cases.mjs has the cases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = re.findall(r"^  async (\w+)\(", (HERE / "cases.mjs").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("case", CASES)
def test_case(results: dict[str, str | None], case: str) -> None:
    if error := results[case]:
        pytest.fail(error, pytrace=False)


def test_the_lock_names_the_public_registry() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for package in packages.values():
        assert package["resolved"].startswith("https://registry.npmjs.org/")
        assert package["integrity"]
