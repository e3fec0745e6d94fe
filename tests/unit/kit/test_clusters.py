"""A host keeps the kind of PostgreSQL that has its users."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llamakit.preflight.clusters import find_clusters
from unit.kit.test_preflight import ON_HOST, but, found

CLUSTERS = {
    "embedded": Path("/var/lib/llamakit/postgres"),
    "distribution": Path("/var/lib/postgresql/15/llamakit"),
}


def test_clusters_are_found_once_they_were_made(tmp_path: Path) -> None:
    embedded = tmp_path / "var/lib/llamakit/postgres"
    data = tmp_path / "var/lib/postgresql/15/llamakit"
    settings = tmp_path / "etc/postgresql/15/llamakit/conf.d"
    for folder in (embedded, data, settings, data.with_name("main")):
        folder.mkdir(parents=True)
        (folder / "PG_VERSION").write_text("15\n")
    (data.with_name("main") / "postmaster.opts").touch()
    assert find_clusters(embedded, tmp_path) == {"embedded": embedded}
    (settings / "llamakit.conf").touch()
    assert find_clusters(embedded, tmp_path) == {"embedded": embedded, "distribution": data}
    (settings / "llamakit.conf").unlink()
    (data / "postmaster.opts").touch()
    (embedded / "PG_VERSION").unlink()
    assert find_clusters(embedded, tmp_path) == {"distribution": data}


@pytest.mark.parametrize(
    ("there", "wanted"), [("distribution", "embedded"), ("embedded", "distribution")]
)
def test_the_other_kinds_cluster_is_refused(there: str, wanted: str) -> None:
    facts = but(clusters={there: CLUSTERS[there]})
    wants = dataclasses.replace(ON_HOST, postgres=wanted)
    ((problem,), _) = found(facts, wants)
    assert f"in {CLUSTERS[there]}" in problem
    assert f"keep it with postgres_source: {there}" in problem
    assert found(facts, dataclasses.replace(ON_HOST, postgres=there)) == ([], [])
    # An external server, and this machine, whose cluster is below the checkout.
    assert found(facts, ON_HOST) == ([], [])
    assert found(facts, dataclasses.replace(wants, place="local")) == ([], [])
