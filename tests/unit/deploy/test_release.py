"""The release module: which release `current` names, and the way back."""

from pathlib import Path
from typing import Any

import pytest

from unit.deploy.run_module import Outcome, run_module


def make(code: Path, name: str) -> None:
    (code / "proxy" / f"env-{name}").mkdir(parents=True)
    (code / "releases" / name).mkdir(parents=True)
    (code / "releases" / name / "venv").symlink_to(f"../../proxy/env-{name}")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with the releases a, b and c, each in an environment of its own."""
    folder = tmp_path / "code"
    for name in "abc":
        make(folder, name)
    return folder


def switch(code: Path, *, check_mode: bool = False, **options: Any) -> Outcome:
    return run_module("release", {"path": str(code), **options}, {}, check_mode=check_mode)


def links(code: Path) -> tuple[str | None, str | None]:
    current, previous = code / "current", code / "previous"
    return (
        current.resolve().name if current.is_symlink() else None,
        previous.resolve().name if previous.is_symlink() else None,
    )


def test_a_switch_keeps_the_way_back_and_a_second_one_changes_nothing(code: Path) -> None:
    first = switch(code, name="a").result
    assert (first["changed"], first["before"]) == (True, "")
    assert links(code) == ("a", None)
    second = switch(code, name="b").result
    assert (second["before"], second["previous"]) == ("a", "")
    assert links(code) == ("b", "a")
    assert not switch(code, name="b").result["changed"]
    assert links(code) == ("b", "a")


def test_going_back_and_forth(code: Path) -> None:
    switch(code, name="a")
    switch(code, name="b")
    assert switch(code, back=True).result["name"] == "a"
    assert links(code) == ("a", "b")
    switch(code, back=True)
    assert links(code) == ("b", "a")


def test_a_release_that_failed_is_no_way_back(code: Path) -> None:
    switch(code, name="a")
    switch(code, name="b")
    switch(code, name="c")
    switch(code, name="b", previous="a")
    assert links(code) == ("b", "a")


def test_without_a_release_before_it_says_what_to_do(code: Path) -> None:
    switch(code, name="a")
    failed = switch(code, back=True)
    assert failed.code != 0
    assert "there is no release before a" in failed.result["msg"]
    assert links(code) == ("a", None)


def test_check_mode_changes_nothing(code: Path) -> None:
    switch(code, name="a")
    assert switch(code, check_mode=True, name="b").result["changed"]
    assert links(code) == ("a", None)


def test_old_releases_go_but_never_one_that_is_linked(tmp_path: Path) -> None:
    code = tmp_path / "code"
    make(code, "a")
    switch(code, name="a", keep=1)
    make(code, "b")
    result = switch(code, name="b", keep=1).result
    assert [Path(path).name for path in result["environments"]] == ["env-a", "env-b"]
    make(code, "c")
    switch(code, name="c", keep=1)
    assert sorted(path.name for path in (code / "releases").iterdir()) == ["b", "c"]
