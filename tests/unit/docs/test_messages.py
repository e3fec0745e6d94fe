"""What docs/troubleshooting.md quotes of the messages about hosts is what the code says."""

from __future__ import annotations

import re

import pytest

from unit.docs import pages

_PAGE = pages.page("docs/troubleshooting.md")
_JOINT = re.compile(r"[\"']\s*\n\s*f?[\"']")
_SOURCES = ("files/*/src/**/*.py", "roles/**/*.*", "playbooks/**/*.*")
_OTHERS = {"SSL: CERTIFICATE_VERIFY_FAILED"}
"""What other programs say."""


def _said() -> str:
    """All sources, with texts that run over several lines as one."""
    files = (path for glob in _SOURCES for path in pages.ROOT.glob(glob))
    texts = (path.read_text(encoding="utf-8") for path in files
             if path.suffix in (".py", ".yml", ".j2"))  # fmt: skip
    return " ".join(_JOINT.sub("", "\n".join(texts)).replace("`", "").split())


def _quotes() -> list[str]:
    rows = pages.rows(pages.section(_PAGE, "A host can't be deployed"))
    cells = [row.split(" | ")[0] for row in rows]
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    parts = [part.strip(" ,;") for span in spans for part in span.split("…")]
    return [part for part in parts if len(part) > 5]


@pytest.fixture(scope="module")
def said() -> str:
    return _said()


@pytest.mark.parametrize("quote", sorted(set(_quotes()) - _OTHERS))
def test_messages_that_are_quoted_are_said(said: str, quote: str) -> None:
    assert quote in said
