"""docs/configuration.md names every setting there is, and none that isn't."""

from __future__ import annotations

import json
import re
from typing import Any

from llamakit.config.local_env import SETTINGS
from unit.docs import pages

_PAGE = pages.page("docs/configuration.md")
_WORDS = pages.words(_PAGE)
_ENVIRONMENT = re.compile(r"lookup\('ansible\.builtin\.env', '([A-Z_]+)'\)")
_ONLY_WRITTEN = {
    "LLAMA_SERVER_HOST",
    "LLAMA_PROXY_ROUTES",
    "LLAMA_PROXY_SPOOL_DIR",
    "LLAMAKIT_SECRETS_DIR",
}
"""Names in config.env that follow from the rest and can't be set."""


def _schema(file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(pages.page(f"config/{file}"))
    return document


def _names_in_config_env() -> set[str]:
    template = pages.page("roles/auth_proxy/templates/config.env.j2")
    return set(re.findall(r"^([A-Z_]+)=", template, re.MULTILINE))


def _names_from_the_environment() -> set[str]:
    files = (pages.ROOT / "group_vars").rglob("*.yml")
    found = {name for file in files for name in _ENVIRONMENT.findall(file.read_text())}
    # Where programs are looked for is no setting of ours.
    return found - {"PATH"}


def test_every_name_in_config_env_is_described() -> None:
    assert not _names_in_config_env() - _WORDS


def test_what_config_env_says_can_be_set_in_local_env() -> None:
    settable = pages.cells(pages.section(_PAGE, "config/local.env"))
    assert _names_in_config_env() - _ONLY_WRITTEN <= settable
    assert not _ONLY_WRITTEN & settable


def test_local_env_is_described_as_it_is_read() -> None:
    described = pages.cells(pages.section(_PAGE, "config/local.env"))
    # The fetching program reads these two itself.
    assert described == _names_from_the_environment() | {"HF_ENDPOINT", "HF_TOKEN"}
    assert described == set(SETTINGS), "what preflight and doctor let through"


def test_every_number_is_checked_for_being_one() -> None:
    """Ansible's filter int makes 0 of what is none, and 0 is often no limit."""
    text = "".join(file.read_text() for file in (pages.ROOT / "group_vars/local").rglob("*.yml"))
    numbers = re.findall(_ENVIRONMENT.pattern + r"[^}]*\| int\b", text)
    (checked,) = re.findall(r"grep -E '(\^\(LLAMA[^']+)'", pages.page("console.sh"))
    assert len(numbers) > 15
    assert [name for name in numbers if not re.match(checked, name)] == []


def test_the_defaults_described_are_those_of_this_machine() -> None:
    text = "".join(file.read_text() for file in (pages.ROOT / "group_vars/local").rglob("*.yml"))
    found = re.compile(_ENVIRONMENT.pattern + r"\s*\|\s*default\('([^']+)', true\)").findall(text)
    defaults = dict(found)
    # Empty until it names another server; the default is what the kit's own listens on.
    del defaults["POSTGRES_AUTH_HOST"]
    assert len(defaults) > 10
    for row in pages.rows(pages.section(_PAGE, "config/local.env")):
        name, default = (cell.strip(" `|") for cell in row.split(" | ")[:2])
        if name in defaults:
            assert default == defaults[name], name


def test_the_example_names_settings_that_exist() -> None:
    names = re.findall(r"^#?([A-Z_]+)=", pages.page("config/local.env.example"), re.MULTILINE)
    assert names
    assert set(names) <= _names_from_the_environment() | {"HF_ENDPOINT", "HF_TOKEN"}


def test_the_keys_of_models_yaml_are_described() -> None:
    schema = _schema("models.schema.json")
    described = pages.cells(pages.section(_PAGE, "config/models.yaml"))
    model = set(schema["$defs"]["model"]["properties"])
    source = set(schema["$defs"]["source"]["properties"])
    assert described == model | source


def test_the_keys_of_proxy_routes_yaml_are_described() -> None:
    model = _schema("proxy_routes.schema.json")["properties"]["models"]["items"]["properties"]
    backend = model["backends"]["items"]["properties"]
    described = pages.cells(pages.section(_PAGE, "config/proxy_routes.yaml"))
    assert described == set(model) | {f"backends[].{key}" for key in backend}
