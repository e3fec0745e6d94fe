"""What is committed could have been written on any machine, and is free to use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from unit.docs import pages

_HOMES = re.compile(r"/(?:home|Users)/[A-Za-z]")
_INDEX = re.compile(r"^\s*(?:--index-url|--extra-index-url|--find-links|-i|-f)\b", re.MULTILINE)

# A clone may lie right below one of these, which every machine has.
_EVERYWHERE = {Path("/", name) for name in ("", "home", "mnt", "opt", "root", "srv", "tmp", "var")}


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """The text files that git keeps, by path."""
    if not (pages.ROOT / ".git").exists():
        pytest.skip("not a git checkout: nobody can tell what is committed")
    command = ["git", "-C", str(pages.ROOT), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in filter(None, names.split("\0")):
        path = pages.ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[name] = content.decode("utf-8")
    return texts


def test_no_file_names_a_place_on_the_machine_it_was_written_on(tracked: dict[str, str]) -> None:
    places = {pages.ROOT, pages.ROOT.parent} - _EVERYWHERE
    here = [re.escape(str(place)) for place in places]
    pattern = re.compile(rf"(?:{'|'.join(here)})(?![\w-])")
    found = [name for name, text in tracked.items() if pattern.search(text) or _HOMES.search(text)]
    assert not found


def test_locks_name_no_package_index(tracked: dict[str, str]) -> None:
    """Where packages come from is a matter of pip's configuration, not of the lock."""
    locks = {name: text for name, text in tracked.items() if name.startswith("requirements/")}
    assert locks
    assert not [name for name, text in locks.items() if _INDEX.search(text)]


def test_the_license_is_mit() -> None:
    assert pages.page("LICENSE").startswith("MIT License\n")
    assert "llamakit contributors" in pages.page("LICENSE")


def test_unreleased_changes_have_a_place() -> None:
    assert "## [Unreleased]" in pages.page("CHANGELOG.md")


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_the_files_that_are_named_exist(page: Path) -> None:
    folders = [path.name for path in pages.ROOT.iterdir() if path.is_dir()]
    made_at_run_time = {"runtime", "logs", "data", "models", "secrets", "bundle"}
    made_later = ("config/local.env", "inventory/host_vars/", "benchmarks/results/")
    for word in pages.words(page.read_text(encoding="utf-8")):
        first, slash, _ = word.partition("/")
        if slash and first in folders and first not in made_at_run_time and " " not in word:
            there = word.startswith(made_later) or list(pages.ROOT.glob(word.rstrip("/")))
            assert there, f"{pages.name(page)} names {word}"
