"""The table of incidents names tests that exist, and the locks hold nothing known to be broken."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from proxy.incidents import INCIDENTS, Incident
from unit.docs import pages

_TESTS = pages.ROOT / "tests"
_REPORT = re.compile(
    r"CVE-\d{4}-\d{4,}|CWE-\d+|GHSA(?:-[0-9a-z]{4}){3}|GO-\d{4}-\d+|[\w.-]+/[\w.-]+#\d+", re.ASCII
)
_PIN = re.compile(r"^([a-zA-Z0-9._-]+)==([0-9][^ ;\\]*)", re.MULTILINE)
_FIXED = {"starlette": (1, 0, 1), "h11": (0, 16, 0), "fastapi": (0, 109, 1)}
"""The first releases without CVE-2026-48710, CVE-2025-43859 and CVE-2024-24762."""


@cache
def _tests_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_every_incident_has_tests_that_exist(incident: Incident) -> None:
    assert incident.tests
    assert len(set(incident.tests)) == len(incident.tests)
    for test in incident.tests:
        file, _, name = test.partition("::")
        assert name.startswith("test_")
        assert (_TESTS / file).is_file(), f"{file} is not there"
        assert name in _tests_in(_TESTS / file), f"{test} is not there"


def test_incidents_are_told_once_and_with_their_source() -> None:
    assert len({incident.name for incident in INCIDENTS}) == len(INCIDENTS)
    for incident in INCIDENTS:
        assert incident.what
        assert incident.reports
        for report in incident.reports:
            assert _REPORT.fullmatch(report), report


def test_the_document_names_reports_of_the_table() -> None:
    named = set(re.findall(r"CVE-\d{4}-\d+", pages.page("docs/security.md")))
    assert named
    assert named <= {report for incident in INCIDENTS for report in incident.reports}


def test_packages_with_known_holes_are_not_in_the_locks() -> None:
    seen = set()
    for lock in (pages.ROOT / "requirements").glob("*.txt"):
        for name, version in _PIN.findall(lock.read_text(encoding="utf-8")):
            if name in _FIXED:
                seen.add(name)
                found = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
                assert found >= _FIXED[name], f"{lock.name}: {name} {version}"
    assert seen == set(_FIXED)


def test_every_package_of_a_lock_has_a_hash() -> None:
    locks = sorted((pages.ROOT / "requirements").glob("*.txt"))
    assert len(locks) > 5
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        entries = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)[1:]
        assert entries, lock.name
        for entry in entries:
            assert "--hash=sha256:" in entry, f"{lock.name}: {entry.splitlines()[0]}"
