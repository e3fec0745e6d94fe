"""What can go wrong with a backup, in words for people."""

from __future__ import annotations

from signal import Signals

TAIL_LINES = 6
TAIL_CHARACTERS = 1200

# What PostgreSQL's programs say, and what to do about it.
ADVICE = (
    ("No space left on device", "Make room on that disk, then run the same command again."),
    ("SIGXFSZ", "A file may not grow that far: `ulimit -f` shows the limit. Raise it, try again."),
    ("Disk quota exceeded", "Make room in that quota, then run the same command again."),
    ("Peer authentication failed", "Run it as root."),
    (
        "password authentication failed",
        "The secret is not the server's password; deploy again, which sets it.",
    ),
    (
        "unsupported version",
        "A newer PostgreSQL made it, and an older one can't read it: restore it with that version "
        "or a later one.",
    ),
    ("does not appear to be a valid archive", "It is no dump of pg_dump's custom format."),
    ("server version mismatch", "Name the programs of the server's version with --bin-dir."),
    (
        "Is the server running",
        "Start PostgreSQL: `./console.sh start` on this machine, `systemctl start postgresql` on a "
        "host.",
    ),
)


class DatabaseError(Exception):
    """A backup or a restore failed. The text says what was found and what to do."""


def explain(program: str, code: int, errors: str) -> DatabaseError:
    """The error for a program that exited with ``code`` and left ``errors`` on its stderr."""
    said = "\n  ".join(errors.strip().splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]
    reason = f"ended by {Signals(-code).name}" if code < 0 else f"exit status {code}"
    advice = next((text for sign, text in ADVICE if sign in f"{reason} {errors}"), "")
    lines = [f"{program} failed ({reason})", f"  {said}" if said else "", advice]
    return DatabaseError("\n".join(filter(None, lines)))
