"""Each role says what it takes: its argument_specs and its defaults name the same variables."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir())


def load(role: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROLES / role / file).read_text())
    return found


def options(role: str) -> dict[str, Any]:
    specs = load(role, "meta/argument_specs.yml")["argument_specs"]
    found: dict[str, Any] = specs["main"]["options"]
    return found


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_specified_with_its_value(role: str) -> None:
    specified = {name: option.get("default") for name, option in options(role).items()}
    assert specified == load(role, "defaults/main.yml")


@pytest.mark.parametrize("role", NAMES)
def test_every_option_is_typed_described_and_named_after_the_role(role: str) -> None:
    for name, option in options(role).items():
        assert name.startswith(f"{role}_")
        assert option["description"].endswith("."), name
        assert option["type"] != "list" or "elements" in option, name


@pytest.mark.parametrize("role", NAMES)
def test_secrets_are_strings(role: str) -> None:
    """A wrongly typed value is printed by Ansible even under no_log; a string can't be wrong."""
    for name, option in options(role).items():
        if name.endswith(("_password", "_key", "_token")):
            assert option["type"] == "str", name


@pytest.mark.parametrize("role", NAMES)
def test_no_role_reads_another_roles_variables(role: str) -> None:
    """Wiring lives in group_vars; only the service role is there to be given variables."""
    others = [name for name in NAMES if name not in (role, "service")]
    for path in (ROLES / role).rglob("*"):
        if path.suffix in (".yml", ".j2"):
            text = path.read_text()
            for other in others:
                assert not [
                    name
                    for name in options(other)
                    if f" {name} " in text and f"{role}_{name}" not in text
                ], f"{path} uses {other}'s variables"
