"""What keeps a bundle from being made or used."""

from __future__ import annotations


class BundleError(Exception):
    """Says what was found, what was expected and what to do."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        super().__init__(found, expected, remedy)

    def __str__(self) -> str:
        found, expected, remedy = self.args
        return f"bundle:\n  found:    {found}\n  expected: {expected}\n  do:       {remedy}"
