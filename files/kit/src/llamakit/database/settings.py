"""Which database is backed up, and how to reach it: a JSON file that the role postgres writes."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamakit.database.problems import DatabaseError

DEFAULT_FILE = Path("/etc/llamakit/database.json")


@dataclass(frozen=True, slots=True)
class Settings:
    """The file's content. It holds no secret."""

    backups_dir: str
    host: str
    """An address, or the folder of the server's socket."""
    port: int
    database: str
    owner: str
    """The role that owns the database and everything in it."""
    proxy_role: str
    """The role that may connect besides the owner."""
    user: str = "postgres"
    """The superuser, as whom the programs connect."""
    password_secret: str = ""
    """The name of the secret with that user's password; empty where the socket vouches for us."""
    secrets_dir: str = ""
    bin_dir: str = ""
    """The folder with pg_dump, pg_restore and psql; empty for those on the PATH."""
    keep: int = 14
    """How many backups are kept."""
    run_as: str = ""
    """The system user whom the backups belong to; root becomes that user to make one."""
    init_command: list[str] = field(default_factory=list)
    """Brings the schema and the rights of the database in POSTGRES_AUTH_DB up to date."""


def load(path: Path) -> Settings:
    """The settings in the file. DatabaseError when there are none, or wrong ones."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatabaseError(
            f"{path} is not there; expected the settings that a deployment with a PostgreSQL of "
            "its own writes. Name another file with --settings. An external server is backed up "
            "by whoever runs it."
        ) from None
    except (OSError, ValueError) as error:
        raise DatabaseError(
            f"{path} can't be read: {error}. Deploy again to write it anew."
        ) from None
    kinds = {one.name: one for one in dataclasses.fields(Settings)}
    if not isinstance(found, dict):
        raise DatabaseError(f"{path} holds no JSON object. Deploy again to write it anew.")
    missing = [
        name
        for name, one in kinds.items()
        if name not in found
        and one.default is dataclasses.MISSING
        and one.default_factory is dataclasses.MISSING
    ]
    unknown = sorted(set(found) - set(kinds))
    if missing or unknown:
        raise DatabaseError(
            f"{path} does not fit this kit: missing {missing or 'nothing'}, unknown "
            f"{unknown or 'nothing'}. Deploy again to write it anew."
        )
    values: dict[str, Any] = found
    return Settings(**values)


def password(settings: Settings) -> str | None:
    """The superuser's password, None where none is needed. DatabaseError when it can't be read."""
    name = settings.password_secret
    if not name:
        return None
    folders = [
        folder
        for folder in (
            os.environ.get("CREDENTIALS_DIRECTORY"),
            os.environ.get("LLAMAKIT_SECRETS_DIR"),
            settings.secrets_dir,
        )
        if folder
    ]
    for folder in folders:
        try:
            return Path(folder, name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            continue
        except PermissionError:
            raise DatabaseError(
                f"{Path(folder, name)} can't be read by you. Run it as root."
            ) from None
    raise DatabaseError(
        f"there is no secret {name} in {' or '.join(folders) or 'any folder'}. "
        "Deploy again to write it."
    )
