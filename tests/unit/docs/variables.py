"""The tables of docs/variables.md, made of the roles' argument specs.

``PYTHONPATH=tests python -m unit.docs.variables`` writes them anew.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from unit.docs import pages

PAGE = "docs/variables.md"
ROLES = ("auth_proxy", "llama_server", "postgres", "service")
_TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=\n\n|\n\Z)", re.DOTALL)
_HEAD = "| Variable | Type | Default | Meaning |\n|---|---|---|---|"


def read(path: str) -> dict[str, Any]:
    """A YAML file of the checkout, which may have comments alone."""
    document: dict[str, Any] = yaml.safe_load(pages.page(path)) or {}
    return document


def options(role: str) -> dict[str, dict[str, Any]]:
    """Each variable of a role: its type, default and description."""
    specs = read(f"roles/{role}/meta/argument_specs.yml")
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"]["options"]
    return found


def plain(value: object) -> str:
    """A value as it stands in a table."""
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def tables() -> dict[str, str]:
    """The tables by their names: of each role what people set, and what the kit sets itself."""
    wired = set(read("group_vars/all/kit/wiring.yml")) | set(read("group_vars/all/kit/place.yml"))
    made = {}
    for role in ROLES:
        for name, inside in ((role, False), (f"{role}_wired", True)):
            rows = [_row(n, o) for n, o in options(role).items() if (n in wired) is inside]
            made[name] = "\n".join([_HEAD, *rows])
    return made


def _row(name: str, option: dict[str, Any]) -> str:
    kind = ", ".join(filter(None, option["choices"])) if "choices" in option else option["type"]
    default = plain(option["default"])
    if re.search(r"[*{\[]", default):
        default = f"`{default}`"
    cells = (f"`{name}`", kind, default, option["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def written(page: str) -> str:
    """The page with its tables as they should be."""
    made = tables()
    return _TABLE.sub(lambda match: f"{match[1]}{match[2]}{made[match[1]]}", page)


if __name__ == "__main__":
    (pages.ROOT / PAGE).write_text(written(pages.page(PAGE)), encoding="utf-8")
