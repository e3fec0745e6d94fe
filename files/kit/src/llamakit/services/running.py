"""Which of our services run now, as their manager says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamakit.services.managers import ManagerError, ask_manager, load_state
from llamakit.services.supervise import load_services

ASK_SECONDS = 5.0


def running_services(state_dir: Path) -> list[dict[str, Any]]:
    """The definitions of those that have a process, each with its ``pid``; none before a start."""
    try:
        services = load_services(state_dir)
        managed = ask_manager(state_dir, load_state(state_dir), list(services), ASK_SECONDS)
    except (FileNotFoundError, ManagerError):
        return []
    return [
        {**service, "pid": managed[name].pid}
        for name, service in services.items()
        if name in managed and managed[name].pid is not None
    ]
