"""What the proxy's database role may do: exactly this list."""

import psycopg
from psycopg import sql

from .database import DatabaseError

# Every object of ours is named here: the database may be shared, and what is in it beside ours is
# not ours to touch.
_TABLES = (
    "public.schema_migrations, public.key_epoch, public.users, public.api_keys,"
    " public.llama_requests, public.llama_requests_default, public.limit_accounts,"
    " public.llama_usage, public.llama_retention"
)
_FUNCTIONS = (
    "public.next_key_epoch(boolean), public.stamp_key_version(),"
    " public.ensure_request_partitions(integer), public.forget_limit_accounts(),"
    " public.settle_limits(jsonb), public.duration_bucket(double precision),"
    " public.count_buckets(integer[]), public.add_buckets(integer[], integer[]),"
    " public.count_usage(), public.drop_old_requests()"
)
_REVOKES = (
    f"REVOKE ALL ON {_TABLES} FROM PUBLIC, {{role}}",
    f"REVOKE ALL ON FUNCTION {_FUNCTIONS} FROM PUBLIC, {{role}}",
)
# Inserting through a partitioned table asks for no right on its partitions, so none is given.
_GRANTS = (
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT ON public.schema_migrations, public.key_epoch, public.users, public.api_keys"
    " TO {role}",
    "GRANT UPDATE (last_used_at) ON public.api_keys TO {role}",
    "GRANT INSERT ON public.llama_requests TO {role}",
    "GRANT EXECUTE ON FUNCTION public.ensure_request_partitions(integer),"
    " public.drop_old_requests(), public.settle_limits(jsonb) TO {role}",
)
_RIGHTS = """
SELECT coalesce(array_agg(item ORDER BY item), '{}') FROM (
    SELECT concat_ws(' ', kind, name, part, acl.grantee, acl.privilege_type) AS item
    FROM (
        SELECT 'schema' AS kind, nspname::text AS name, '' AS part, nspacl AS acl
            FROM pg_namespace WHERE nspname = 'public'
        UNION ALL SELECT 'table', relname::text, '', relacl
            FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'column', relname::text, attname::text, attacl
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'function', oid::regprocedure::text, '',
                coalesce(proacl, acldefault('f', proowner))
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ) AS object, aclexplode(acl) AS acl
) AS items
"""


def grant_proxy_rights(
    connection: psycopg.Connection, role: str, *, and_no_other: bool = True
) -> bool:
    """Give ``role`` the proxy's rights; whether anything changed.

    With ``and_no_other`` every other right is taken away. DatabaseError when there is no such role.
    """
    identifier = sql.Identifier(role)
    with connection.transaction():
        before = _rights(connection)
        try:
            for statement in (*(_REVOKES if and_no_other else ()), *_GRANTS):
                connection.execute(sql.SQL(statement).format(role=identifier))
        except psycopg.errors.UndefinedObject:
            raise DatabaseError(
                f"there is no role {role} for the proxy; run provision-db, "
                "or name the role that Postgres has in POSTGRES_AUTH_USER"
            ) from None
        changed = _rights(connection) != before
        if not changed:
            raise psycopg.Rollback
    return changed


def _rights(connection: psycopg.Connection) -> list[str]:
    row = connection.execute(_RIGHTS).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has one row
    rights: list[str] = row[0]
    return rights
