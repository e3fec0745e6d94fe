"""The filter that names an environment by its content."""

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from playbooks.plugins.filter.tree_digest import FilterModule, tree_digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "inner" / "b.py").write_text("b")
    return folder


def test_content_and_names_count(package: Path) -> None:
    seen = {tree_digest([str(package)])}
    (package / "a.py").write_text("A")
    seen.add(tree_digest([str(package)]))
    (package / "a.py").rename(package / "c.py")
    seen.add(tree_digest([str(package)]))
    (package / "empty").touch()
    seen.add(tree_digest([str(package)]))
    assert len(seen) == 4
    assert all(len(digest) == 12 for digest in seen)


def test_where_it_lies_and_when_it_was_written_do_not_count(package: Path, tmp_path: Path) -> None:
    before = tree_digest([str(package)])
    moved = package.rename(tmp_path / "elsewhere")
    (moved / "a.py").touch()
    assert tree_digest([str(moved)]) == before


def test_caches_do_not_count(package: Path) -> None:
    before = tree_digest([str(package)])
    for name in ("__pycache__", "kit.egg-info", ".mypy_cache"):
        (package / name).mkdir()
        (package / name / "x").write_text("x")
    assert tree_digest([str(package)]) == before


def test_more_values_count(package: Path) -> None:
    assert tree_digest([str(package)], "1") != tree_digest([str(package)])
    assert tree_digest([str(package)], "1") != tree_digest([str(package)], "2")


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match="does not exist"):
        tree_digest([str(tmp_path / "absent")])


def test_ansible_finds_it() -> None:
    assert FilterModule().filters()["tree_digest"] is tree_digest
