"""Links between the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unit.docs import pages

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchors(text: str) -> set[str]:
    """The anchors GitHub makes of headings."""
    headings = _HEADING.findall(pages.prose(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(pages.prose(page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: there is no {path}"
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), (
                f"{link}: no such heading"
            )


def test_every_document_can_be_found_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in _LINK.findall(pages.page("README.md"))}
    documents = {f"docs/{path.name}" for path in (pages.ROOT / "docs").glob("*.md")}
    assert documents | {"AGENTS.md", "CHANGELOG.md", "LICENSE"} <= linked
