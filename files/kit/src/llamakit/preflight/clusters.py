"""The database clusters that the kit has made on a host, of either kind of PostgreSQL."""

from __future__ import annotations

from pathlib import Path


def find_clusters(embedded: Path, root: Path = Path("/")) -> dict[str, Path]:
    """The data's folder by ``postgres_source``: ``embedded``, which would be there, and
    ``distribution``. Needs root, whom the folders are open to.
    """
    found = {"embedded": embedded} if (embedded / "PG_VERSION").exists() else {}
    for data in sorted(root.glob("var/lib/postgresql/*/llamakit")):
        settings = root / "etc/postgresql" / data.parent.name / "llamakit/conf.d/llamakit.conf"
        # An interrupted run leaves a cluster that was neither configured nor started.
        was_made = (data / "postmaster.opts").exists() or settings.exists()
        if was_made and (data / "PG_VERSION").exists():
            found["distribution"] = data
    return found
