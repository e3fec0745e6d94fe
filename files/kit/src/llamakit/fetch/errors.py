"""Why a download failed, with the exit status that tells scripts."""

from __future__ import annotations

from enum import IntEnum


class FetchStatus(IntEnum):
    """Exit status of ``fetch`` and ``check-files``."""

    UNREACHABLE = 3
    WRONG_CONTENT = 4
    NO_SPACE = 5
    REFUSED = 6


class FetchError(Exception):
    """A model could not be fetched; the message says what was found and what to do."""

    def __init__(self, status: FetchStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Retry(Exception):
    """An attempt broke off; what has arrived is kept."""
