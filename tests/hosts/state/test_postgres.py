"""The database of a host, and what its roles may do."""

from __future__ import annotations

import json

from support.hosts import Host


def ask(host: Host, query: str, database: str = "llamakit") -> list[str]:
    """The answer's lines, asked as the server's own superuser."""
    settings = json.loads(host.run("cat /etc/llamakit/database.json"))
    psql = f"psql --no-psqlrc --quiet --tuples-only --no-align --port={settings['port']}"
    return host.lines(f'runuser -u postgres -- {psql} --dbname={database} --command="{query}"')


def test_the_roles_have_no_rights_of_the_server(host: Host) -> None:
    rows = ask(
        host,
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls "
        "FROM pg_roles WHERE rolname LIKE 'llamakit%' ORDER BY 1",
    )
    assert rows == ["llamakit_admin|f|f|f|f|f", "llamakit_proxy|f|f|f|f|f"]


def test_the_proxy_can_not_change_the_schema_or_make_users(host: Host) -> None:
    rights = ask(
        host,
        "SELECT has_schema_privilege('llamakit_proxy', 'public', 'CREATE'), "
        "has_database_privilege('llamakit_proxy', 'llamakit', 'CREATE'), "
        "(SELECT bool_or(has_table_privilege('llamakit_proxy', oid, 'INSERT')) FROM pg_class "
        "WHERE relkind = 'r' AND relname LIKE '%keys'), "
        "(SELECT rolname FROM pg_database d JOIN pg_roles r ON d.datdba = r.oid "
        "WHERE datname = 'llamakit')",
    )
    assert rights == ["f|f|f|llamakit_admin"]


def test_passwords_are_scram_and_needed(host: Host) -> None:
    stored = ask(host, "SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname ~ '^llamakit'")
    assert stored == ["SCRAM-SHA-256$"] * 2
    settings = json.loads(host.run("cat /etc/llamakit/database.json"))
    tried = host.system.run(
        f"psql --no-password --host=127.0.0.1 --port={settings['port']} "
        "--username=llamakit_proxy --dbname=llamakit --command='SELECT 1'"
    )
    assert tried.rc != 0
    assert "no password supplied" in tried.stderr


def test_it_is_not_upgraded_by_itself(host: Host) -> None:
    """One cluster, of the version that the distribution has."""
    clusters = host.lines("pg_lsclusters --no-header")
    versions = {"cpu01": "15", "gpu01": "17"}
    assert [line.split()[0] for line in clusters] == [versions[host.name]]
