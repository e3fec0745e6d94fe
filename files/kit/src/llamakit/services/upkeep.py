"""What has to be looked after while all runs: backups, the certificate, and who can listen in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llamakit.database.folder import backups
from llamakit.database.problems import DatabaseError
from llamakit.quantities import duration
from llamakit.services.certificate_end import CertificateUnreadable, certificate_end

MAX_BACKUP_AGE = 26 * 3600  # seconds; it is made every day, within an hour or so
MIN_CERTIFICATE_DAYS = 14


@dataclass(frozen=True, slots=True)
class Upkeep:
    """None where there is no such thing, or where we may not see it, which a warning tells."""

    place: str
    release: str | None
    backup: str | None  # the newest good one
    backup_age_seconds: int | None
    certificate_days: int | None  # left; negative once it has ended
    plain_http_on_network: bool
    warnings: tuple[str, ...]


def read_upkeep(state: Mapping[str, Any], now: datetime | None = None) -> Upkeep:
    """Looks at what state.json names."""
    now = now or datetime.now(UTC)
    place = state.get("place", "local")
    plain = bool(state.get("plain_http_on_network"))
    warnings = []
    if plain:
        warnings.append(
            "PLAIN HTTP ON THE NETWORK: every key and every prompt can be read on the way. "
            "Turn TLS on (docs/security.md)."
        )
    backup, age = None, None
    if state.get("backups_dir"):
        backup, age, told = _last_backup(Path(state["backups_dir"]), place, now)
        warnings += told
    days = None
    if state.get("tls_certificate"):
        days, told = _certificate(Path(state["tls_certificate"]), now)
        warnings += told
    return Upkeep(
        place=place,
        release=_release(state.get("current")),
        backup=backup,
        backup_age_seconds=age,
        certificate_days=days,
        plain_http_on_network=plain,
        warnings=tuple(warnings),
    )


def _release(current: str | None) -> str | None:
    if current is None or not Path(current).is_symlink():
        return None
    return Path(current).resolve().name


def _last_backup(
    folder: Path, place: str, now: datetime
) -> tuple[str | None, int | None, list[str]]:
    """The newest backup's path and age in seconds. Only a host makes them by itself."""
    command = "llamakit backup" if place == "host" else "./console.sh backup"
    try:
        found = backups(folder)
    except DatabaseError:
        return None, None, [f"{folder} can't be read: ask as root how old the last backup is"]
    if not found:
        told = [f"There is no backup yet. Make one: {command}"] if place == "host" else []
        return None, None, told
    age = max(int((now - found[0].made).total_seconds()), 0)
    told = []
    if age > MAX_BACKUP_AGE and place == "host":
        told.append(
            f"The last good backup is {duration(age)} old. See why: journalctl -u llamakit-backup; "
            f"make one: {command}"
        )
    return str(found[0].path), age, told


def _certificate(file: Path, now: datetime) -> tuple[int | None, list[str]]:
    """Whole days that are left."""
    try:
        left = certificate_end(file) - now
    except PermissionError:
        return None, [f"{file} can't be read: ask as root when the certificate ends"]
    except (OSError, CertificateUnreadable) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return None, [f"The certificate {file} can't be read ({reason}). Deploy again."]
    renew = "Put a new one in its place and deploy (a self-signed one is made anew by that)."
    if left.total_seconds() < 0:
        return left.days, [f"The certificate has ended {-left.days} days ago. {renew}"]
    if left.days < MIN_CERTIFICATE_DAYS:
        return left.days, [f"The certificate ends in {left.days} days. {renew}"]
    return left.days, []
