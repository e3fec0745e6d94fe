"""What holds for all tests."""

import pytest

from support import leftovers


def pytest_sessionstart(session: pytest.Session) -> None:
    """What runs that were killed have left is in nobody's way."""
    # The session that distributes tests does it once for all of its workers.
    if not hasattr(session.config, "workerinput"):
        leftovers.sweep()
