"""``init-db``: tables, the proxy's rights on them, partitions ahead, how long log rows are kept."""

from . import migrate
from .access import grant_proxy_rights
from .database import Role, connect, role_name
from .settings import Settings

_DAYS_AHEAD = 7


def shares_the_owners_role(settings: Settings) -> bool:
    """Whether the proxy connects as the role that owns the database, and so has every right."""
    return role_name(settings, Role.PROXY) == role_name(settings, Role.ADMIN)


def is_newer(settings: Settings) -> str | None:
    """What to say when a later release made the database; None when not."""
    with connect(settings, Role.ADMIN) as connection:
        return migrate.is_newer(connection, migrate.packaged())


def initialise(settings: Settings) -> list[str]:
    """Bring the schema up to date; what was changed, a line each, empty for nothing.

    Safe to repeat and to run from two places at once. A later release's schema stays as it is, and
    so do the rights that it may need. Raises DatabaseError or SettingsError.
    """
    with connect(settings, Role.ADMIN) as connection, migrate.alone(connection):
        migrations = migrate.packaged()
        changes = [f"applied {name}" for name in migrate.migrate(connection, migrations)]
        if not shares_the_owners_role(settings):
            proxy = role_name(settings, Role.PROXY)
            own = migrate.is_newer(connection, migrations) is None
            if grant_proxy_rights(connection, proxy, and_no_other=own):
                changes.append(f"set the rights of {proxy}")
        made = connection.execute(
            "SELECT * FROM ensure_request_partitions(%s)", (_DAYS_AHEAD,)
        ).fetchall()
        days = settings.log_retention_days
        if connection.execute(
            "UPDATE llama_retention SET days = %s WHERE days <> %s", (days, days)
        ).rowcount:
            kept = f"for {days} days" if days else "for ever"
            changes.append(f"rows of the request log are kept {kept}")
    return changes + [f"created the partition {name}" for (name,) in made]
