"""A digest of files and folders on the controller, which names an environment by its content."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

LENGTH = 12
IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return sorted(
        item
        for item in path.rglob("*")
        if item.is_file()
        and not IGNORED.intersection(item.relative_to(path).parts)
        and not any(part.endswith(".egg-info") for part in item.parts)
    )


def tree_digest(paths: list[str], *extra: object) -> str:
    """The first 12 hex digits of a SHA-256 over names and contents below ``paths``.

    ``extra`` values count too. Raises AnsibleFilterError where a path does not exist.
    """
    digest = hashlib.sha256()
    for name in paths:
        root = Path(name)
        if not root.exists():
            raise AnsibleFilterError(f"tree_digest: {name} does not exist")
        for file in _files(root):
            label = file.relative_to(root).as_posix() if file != root else file.name
            digest.update(label.encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    for value in extra:
        digest.update(str(value).encode() + b"\0")
    return digest.hexdigest()[:LENGTH]


class FilterModule:
    """What Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Any]:
        return {"tree_digest": tree_digest}
