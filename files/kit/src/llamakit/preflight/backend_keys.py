"""The keys of backends that run elsewhere: files that only people can put there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamakit.config.problems import Problem
from llamakit.models.routes import KEY_SECRET


def missing_keys(
    secrets_dir: Path, routes: list[dict[str, Any]], on: str = ""
) -> Iterator[Problem]:
    """A problem for each ``api_key_secret`` of the routes whose file is not there or is empty."""
    for route in routes:
        for backend in route["backends"]:
            name = backend["api_key_secret"]
            if name in (None, KEY_SECRET) or _is_there(secrets_dir / name):
                continue
            yield Problem(
                f"config/proxy_routes.yaml: {route['id']}, api_key_secret {name!r}",
                f"no key in {secrets_dir / name}",
                f"the key of {backend['url']} in that file{on}",
                "write it there: it is the file llama_api_key in the same folder of where the "
                "backend runs; start gives yours its owner and mode",
            )


def _is_there(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError:  # a folder that is closed to us
        return True
