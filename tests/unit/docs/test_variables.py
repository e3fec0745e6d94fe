"""docs/variables.md names every variable of the inventory, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unit.docs import pages, variables

_PAGE = pages.page(variables.PAGE)
_OURS = re.compile(rf"(?:{'|'.join(variables.ROLES)}|llamakit)_[a-z_]+")
_FOR_PEOPLE = {"llamakit_secrets_given"}
"""What group_vars/all/kit/layout.yml has for people; the rest of it is the kit's own."""
_OTHER_NAMES = {
    "llamakit_admin",
    "llamakit_proxy",
    "llamakit_before_",
    "llamakit_server",
    "service_tier",
}
"""Roles and databases of PostgreSQL, a package, a parameter of requests."""


def _of_all_hosts() -> dict[str, object]:
    """The variables of the kit itself, with what they are on a host."""
    found = variables.read("group_vars/all/main.yml") | variables.read(
        "group_vars/all/kit/place.yml"
    )
    layout = variables.read("group_vars/all/kit/layout.yml")
    found |= {name: layout[name] for name in _FOR_PEOPLE}
    return {name: value for name, value in found.items() if name.startswith("llamakit_")}


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_tables_of_the_roles_are_those_of_their_argument_specs() -> None:
    named = set(re.findall(r"<!-- table: (\w+) -->", _PAGE))
    assert named == set(variables.tables())
    assert variables.written(_PAGE) == _PAGE, (
        "run: PYTHONPATH=tests runtime/test/bin/python -m unit.docs.variables"
    )


@pytest.mark.parametrize("role", variables.ROLES)
def test_argument_specs_say_the_defaults(role: str) -> None:
    defaults = variables.read(f"roles/{role}/defaults/main.yml")
    told = {name: option["default"] for name, option in variables.options(role).items()}
    assert told == defaults


def test_variables_of_the_kit_are_described_with_their_defaults() -> None:
    rows = [_cells(row) for row in pages.rows(pages.section(_PAGE, "The kit"))]
    described = {name.strip("`"): default for name, default, _meaning in rows}
    expected = _of_all_hosts()
    assert described.keys() == expected.keys()
    for name, value in expected.items():
        if "{{" not in variables.plain(value):
            assert described[name] == variables.plain(value), name


def test_what_groups_set_is_described() -> None:
    described = {tuple(_cells(row)) for row in pages.rows(pages.section(_PAGE, "The groups"))}
    for group in ("cpu", "gpu"):
        for name, value in variables.read(f"group_vars/{group}/main.yml").items():
            assert (f"`{group}`", f"`{name}`", variables.plain(value)) in described


def test_all_hosts_have_the_defaults_of_the_roles() -> None:
    """Where group_vars/all says something else, the page has to."""
    told = {name: o["default"] for role in variables.ROLES
            for name, o in variables.options(role).items()}  # fmt: skip
    for name, value in variables.read("group_vars/all/main.yml").items():
        if not name.startswith("llamakit_") and "{{" not in variables.plain(value):
            assert value == told[name], name


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_variables_that_are_named_exist(page: Path) -> None:
    existing = {name for role in variables.ROLES for name in variables.options(role)}
    for file in (pages.ROOT / "group_vars").rglob("*.yml"):
        existing |= set(variables.read(str(file.relative_to(pages.ROOT))))
    layout = variables.read("group_vars/all/kit/layout.yml")
    existing |= {secret["name"] for secret in layout["llamakit_secrets"]}
    existing |= pages.cells(pages.section(pages.page("docs/monitoring.md"), "Metrics"))
    # What the verbs pass to their plays.
    plays = "".join(file.read_text() for file in (pages.ROOT / "playbooks").glob("*.yml"))
    existing |= set(_OURS.findall(plays))
    words = pages.words(page.read_text(encoding="utf-8"))
    named = {match[0] for word in words for match in [_OURS.match(word)] if match}
    assert named - _OTHER_NAMES <= existing
