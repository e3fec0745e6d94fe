"""Renders the templates of a write_files task, then runs the module once with their contents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """The controller's half of write_files; the module of that name documents the options."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The module's result: ``changed``, ``written``, ``removed`` and ``diff``."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        directories = list(arguments.pop("directories", []))
        contents = list(arguments.pop("contents", []))
        for wanted in arguments.pop("templates", []):
            contents += self._rendered(dict(wanted), task_vars or {})
        for wanted in arguments.pop("trees", []):
            files = list(_tree(wanted["src"], Path(wanted["dest"])))
            folders = sorted({str(Path(file["dest"]).parent) for file in files})
            directories += [{"path": folder, "mode": "0755"} for folder in folders]
            contents += files
        result: dict[str, Any] = self._execute_module(
            module_name="write_files",
            module_args={**arguments, "directories": directories, "contents": contents},
            task_vars=task_vars,
        )
        return result

    def _rendered(
        self, wanted: dict[str, Any], task_vars: dict[str, Any]
    ) -> list[dict[str, Any]]:
        source = wanted.pop("src")
        if "each" not in wanted:
            return [{**wanted, "content": self._render(source, None, task_vars)}]
        items = wanted.pop("each")
        return [
            {
                **wanted,
                "dest": wanted["dest"].format(**item),
                "content": self._render(source, item, task_vars),
            }
            for item in items
        ]

    def _render(self, source: str, item: Any, task_vars: dict[str, Any]) -> str:
        lookup = lookup_loader.get(
            "ansible.builtin.template", loader=self._loader, templar=self._templar
        )
        return str(lookup.run([source], variables=task_vars, template_vars={"item": item})[0])


def _tree(sources: list[str], target: Path) -> Iterator[dict[str, Any]]:
    """The files at and below ``sources``, each source by its base name in ``target``."""
    for source in map(Path, sources):
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            inner = path.relative_to(source.parent)
            if path.is_file() and not IGNORED.intersection(inner.parts):
                yield {"dest": str(target / inner), "mode": "0644", "content": path.read_text()}
