"""The two roles and the database, made or repaired by the superuser of our own Postgres."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from . import scram
from .database import DatabaseError, Role, connect, explain_failure, password, role_name
from .settings import Settings

_LOCK = 0x6C6C616D62
_ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
# What a session may take when it says nothing itself; a proxy's statement is short or stuck.
_PROXY_STATEMENT_TIMEOUT = "10s"


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    password: str
    statement_timeout: str | None


def provision(settings: Settings, socket_dir: Path | None = None) -> list[str]:
    """Create or repair roles and database; what was changed, a sentence each, empty for nothing.

    Through the server's socket in ``socket_dir``, which asks for no password, the superuser's own
    is set right, too: whatever it was, and whoever has lost it.

    Raises DatabaseError or SettingsError. Passwords go to Postgres as verifiers made here, so no
    log or statistics of the server ever sees one.
    """
    wanted = _wanted(settings)
    try:
        with connect(settings, Role.SUPERUSER, socket_dir=socket_dir) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            changes = []
            if socket_dir is not None:
                changes += _provision_superuser(connection, settings)
            for one in wanted:
                changes += _provision_role(connection, one)
            changes += _provision_database(connection, settings)
            with connect(
                settings, Role.SUPERUSER, dbname=settings.postgres_db, socket_dir=socket_dir
            ) as inside:
                changes += _provision_schema(inside, settings)
    except psycopg.Error as error:
        raise DatabaseError(explain_failure(error)) from None
    return changes


def _wanted(settings: Settings) -> list[_Wanted]:
    admin, proxy = role_name(settings, Role.ADMIN), role_name(settings, Role.PROXY)
    if admin == proxy:
        raise DatabaseError(
            f"POSTGRES_AUTH_USER and POSTGRES_AUTH_ADMIN_USER are both {admin!r}; provision-db "
            "makes two roles, because the proxy must not own what it reads: name two"
        )
    superuser = role_name(settings, Role.SUPERUSER)
    if superuser in (admin, proxy):
        raise DatabaseError(
            f"{superuser!r} is the superuser; name other roles in POSTGRES_AUTH_USER "
            "and POSTGRES_AUTH_ADMIN_USER"
        )
    return [
        _Wanted(admin, _password(settings, Role.ADMIN), None),
        _Wanted(proxy, _password(settings, Role.PROXY), _PROXY_STATEMENT_TIMEOUT),
    ]


def _password(settings: Settings, role: Role) -> str:
    found = password(settings, role)
    if not (found.isascii() and found.isprintable()):
        raise DatabaseError(
            f"the password of {role_name(settings, role)} has characters other than printable "
            "ASCII; choose another one"
        )
    return found


def _provision_superuser(connection: psycopg.Connection, settings: Settings) -> list[str]:
    name = role_name(settings, Role.SUPERUSER)
    (verifier,) = _need(connection, "SELECT rolpassword FROM pg_authid WHERE rolname = %s", name)
    return _provision_password(connection, name, _password(settings, Role.SUPERUSER), verifier)


def _provision_role(connection: psycopg.Connection, wanted: _Wanted) -> list[str]:
    name = sql.Identifier(wanted.name)
    found = _one(
        connection,
        "SELECT rolpassword,"
        " (SELECT setconfig FROM pg_db_role_setting WHERE setrole = role.oid AND setdatabase = 0),"
        " rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication"
        " OR rolbypassrls) FROM pg_authid AS role WHERE rolname = %s",
        wanted.name,
    )
    changes = []
    if found is None:
        connection.execute(sql.SQL("CREATE ROLE {} " + _ATTRIBUTES).format(name))
        changes.append(f"created the role {wanted.name}")
        found = (None, None, True)
    verifier, config, rights_are_right = found
    if not rights_are_right:
        connection.execute(sql.SQL("ALTER ROLE {} " + _ATTRIBUTES).format(name))
        changes.append(f"reset the rights of the role {wanted.name}")
    changes += _provision_password(connection, wanted.name, wanted.password, verifier)
    timeout = wanted.statement_timeout
    if timeout is not None and f"statement_timeout={timeout}" not in (config or []):
        connection.execute(
            sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(name, sql.Literal(timeout))
        )
        changes.append(f"set the statement timeout of the role {wanted.name}")
    return changes


def _provision_password(
    connection: psycopg.Connection, name: str, secret: str, verifier: str | None
) -> list[str]:
    if scram.matches(secret, verifier):
        return []
    encrypted = connection.pgconn.encrypt_password(secret.encode(), name.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
            sql.Identifier(name), sql.Literal(encrypted.decode())
        )
    )
    return [f"set the password of the role {name}"]


def _provision_database(connection: psycopg.Connection, settings: Settings) -> list[str]:
    owner = role_name(settings, Role.ADMIN)
    names = {
        "database": sql.Identifier(settings.postgres_db),
        "owner": sql.Identifier(owner),
        "proxy": sql.Identifier(settings.postgres_user),
    }
    found = _one(
        connection,
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s",
        settings.postgres_db,
    )
    changes = []
    if found is None:
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {database} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8'"
            ).format(**names)
        )
        changes.append(f"created the database {settings.postgres_db}")
    elif found[0] != owner:
        connection.execute(sql.SQL("ALTER DATABASE {database} OWNER TO {owner}").format(**names))
        changes.append(f"gave the database {settings.postgres_db} to {owner}")
    open_to_all, proxy_may_connect = _need(
        connection,
        "SELECT bool_or(grantee = 0), bool_or(pg_get_userbyid(grantee) = %s"
        " AND privilege_type = 'CONNECT') FROM pg_database,"
        " aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = %s",
        settings.postgres_user,
        settings.postgres_db,
    )
    if open_to_all:
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {database} FROM PUBLIC").format(**names))
        changes.append(f"closed the database {settings.postgres_db} to other roles")
    if not proxy_may_connect:
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {database} TO {proxy}").format(**names)
        )
        changes.append(f"let {settings.postgres_user} connect to {settings.postgres_db}")
    return changes


def _provision_schema(connection: psycopg.Connection, settings: Settings) -> list[str]:
    """Inside the database: the schema public is the owner's, and closed to everybody else."""
    owner = role_name(settings, Role.ADMIN)
    owned, open_to_all = _need(
        connection,
        "SELECT pg_get_userbyid(nspowner) = %s, EXISTS (SELECT FROM"
        " aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE grantee = 0)"
        " FROM pg_namespace WHERE nspname = 'public'",
        owner,
    )
    changes = []
    if not owned:
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner)))
        changes.append(f"gave the schema public to {owner}")
    if open_to_all:
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        changes.append("closed the schema public to other roles")
    return changes


def _one(connection: psycopg.Connection, query: str, *values: object) -> tuple[Any, ...] | None:
    return connection.execute(query.encode(), values).fetchone()


def _need(connection: psycopg.Connection, query: str, *values: object) -> tuple[Any, ...]:
    row = _one(connection, query, *values)
    if row is None:
        raise DatabaseError("the server's catalog lacks a row that must be there: is it Postgres?")
    return row
