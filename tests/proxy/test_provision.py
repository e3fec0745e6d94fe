"""Roles, the database and their rights, on a real PostgreSQL."""

import concurrent.futures
import dataclasses
import getpass
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from llamakit_proxy import provision, schema, users
from llamakit_proxy.database import DatabaseError, Role, connect
from llamakit_proxy.settings import Settings, SettingsError
from support.postgres import Postgres


def settings_for(postgres: Postgres, request: pytest.FixtureRequest) -> Settings:
    return postgres.settings(f"p{abs(hash(request.node.name)) % 10**9}")


def test_a_second_run_changes_nothing(postgres: Postgres, request: pytest.FixtureRequest) -> None:
    settings = settings_for(postgres, request)
    first = provision.provision(settings)
    assert f"created the database {settings.postgres_db}" in first
    assert provision.provision(settings) == []
    schema.initialise(settings)
    assert provision.provision(settings) == []


def test_two_at_once(postgres: Postgres, request: pytest.FixtureRequest) -> None:
    settings = settings_for(postgres, request)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: provision.provision(settings), range(4)))
    assert sorted(map(bool, runs)) == [False, False, False, True]


def test_what_drifted_is_repaired(postgres: Postgres, request: pytest.FixtureRequest) -> None:
    settings = settings_for(postgres, request)
    provision.provision(settings)
    schema.initialise(settings)
    with postgres.connect() as superuser:
        for statement in (
            "ALTER ROLE {proxy} PASSWORD 'drifted' CREATEDB",
            "ALTER ROLE {proxy} RESET statement_timeout",
            "GRANT ALL ON DATABASE {db} TO PUBLIC",
            "ALTER DATABASE {db} OWNER TO postgres",
        ):
            superuser.execute(
                statement.format(proxy=settings.postgres_user, db=settings.postgres_db).encode()
            )
    with postgres.connect(settings.postgres_db) as superuser:
        superuser.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    with pytest.raises(DatabaseError, match=r"refuses \w+_proxy.*provision-db"):
        connect(settings, Role.PROXY)
    assert len(provision.provision(settings)) == 6
    assert provision.provision(settings) == []
    connect(settings, Role.PROXY).close()
    assert schema.initialise(settings) == []


def test_a_new_password_in_the_secret_is_set(
    postgres: Postgres, request: pytest.FixtureRequest
) -> None:
    settings = settings_for(postgres, request)
    provision.provision(settings)
    (settings.secrets_dir / "postgres_proxy_password").write_text("another-one")
    assert provision.provision(settings) == [
        f"set the password of the role {settings.postgres_user}"
    ]
    connect(settings, Role.PROXY).close()


def test_the_variable_wins_over_the_secret(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_AUTH_PASSWORD", "not-it")
    with pytest.raises(DatabaseError, match="POSTGRES_AUTH_PASSWORD"):
        connect(settings, Role.PROXY)


def test_a_superusers_password_that_was_lost_is_set_through_the_socket(
    own_postgres: Postgres,
) -> None:
    with (own_postgres.data / "pg_ident.conf").open("a") as file:
        file.write(f'kit "{getpass.getuser()}" postgres\n')
    hba = own_postgres.data / "pg_hba.conf"
    hba.write_text(re.sub(r"(?m)^local .*", "local all postgres peer map=kit", hba.read_text()))
    with own_postgres.connect() as superuser:
        superuser.execute("SELECT pg_reload_conf()")
    settings = own_postgres.new_database()
    secret = settings.secrets_dir / "postgres_superuser_password"
    secret.write_text("canary-another-one")
    with pytest.raises(DatabaseError, match=r"refuses postgres: .*--socket-dir") as refusal:
        provision.provision(settings)
    assert "canary" not in str(refusal.value)
    # A socket's path may not be that long, and the folder's own may.
    deep = own_postgres.folder / ("d" * 120)
    deep.symlink_to(own_postgres.folder)
    assert provision.provision(settings, deep) == ["set the password of the role postgres"]
    assert provision.provision(settings, deep) == []
    assert provision.provision(settings) == []
    assert "canary" not in own_postgres.log.read_text()


def test_a_socket_that_is_not_there_is_told(postgres: Postgres, settings: Settings) -> None:
    with pytest.raises(DatabaseError, match=r"can't be opened: No such file .*console.sh start"):
        provision.provision(settings, postgres.folder / "nowhere")
    with pytest.raises(DatabaseError, match=r"can't connect to Postgres at \S+/data:\d+ as"):
        provision.provision(settings, postgres.data)


@pytest.mark.parametrize("name", ['we"ird', "Semi;colon", "select", "ünicode"])
def test_names_are_quoted(postgres: Postgres, name: str) -> None:
    settings = postgres.settings(name)
    assert provision.provision(settings)
    assert schema.initialise(settings)
    assert provision.provision(settings) + schema.initialise(settings) == []


def test_the_superuser_is_no_role_of_ours(postgres: Postgres) -> None:
    settings = postgres.settings("own", POSTGRES_AUTH_USER="postgres")
    with pytest.raises(DatabaseError, match="superuser"):
        provision.provision(settings)


@pytest.mark.parametrize("password", ["naïve", "two\nlines", "tab\tbed"])
def test_a_password_that_could_be_read_in_two_ways_is_refused(
    postgres: Postgres, password: str
) -> None:
    settings = postgres.settings("odd")
    (settings.secrets_dir / "postgres_proxy_password").write_text(password)
    with pytest.raises(DatabaseError, match="printable ASCII") as refusal:
        provision.provision(settings)
    assert password not in str(refusal.value)


def test_errors_are_one_line_and_say_what_to_do(
    postgres: Postgres, settings: Settings, tmp_path: Path
) -> None:
    def refusal(**changes: object) -> str:
        with pytest.raises(DatabaseError) as error:
            connect(dataclasses.replace(settings, **changes), Role.PROXY)  # type: ignore[arg-type]
        text = str(error.value)
        assert "\n" not in text
        assert settings.secret("postgres_proxy_password") not in text
        return text

    away = refusal(postgres_port=1)
    assert "can't connect to Postgres at 127.0.0.1:1" in away
    assert "refused" in away
    assert "status" in away
    assert "no database nowhere" in refusal(postgres_db="nowhere")
    assert "there is no such role" in refusal(postgres_user="nobody")
    assert "can't connect" in refusal(postgres_host="no-such-host.invalid")
    with pytest.raises(SettingsError, match="postgres_proxy_password"):
        connect(dataclasses.replace(settings, secrets_dir=tmp_path), Role.PROXY)


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[psycopg.Connection]:
    """A connection with the proxy's rights; there is one user with one key."""
    settings = postgres.new_database()
    with connect(settings, Role.ADMIN) as admin:
        users.create(admin, "alice")
    with connect(settings, Role.PROXY) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT public_id, sha256 FROM api_keys",
        "SELECT * FROM users",
        "SELECT version FROM key_epoch",
        "SELECT max(version) FROM schema_migrations",
        "UPDATE api_keys SET last_used_at = now()",
        "INSERT INTO llama_requests (username, path, status_code, duration_ms)"
        " VALUES ('a', '/', 200, 1)",
        "SELECT * FROM ensure_request_partitions(8)",
        "SELECT drop_old_requests()",
        "LISTEN llamakit_keys",
    ],
)
def test_the_proxy_may(proxy: psycopg.Connection, statement: str) -> None:
    proxy.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET status = 'active'",
        "UPDATE users SET rate_limit = 0",
        "UPDATE api_keys SET revoked_at = NULL",
        "UPDATE api_keys SET sha256 = sha256",
        "UPDATE api_keys SET expires_at = NULL",
        "INSERT INTO users (username) VALUES ('mallory')",
        "INSERT INTO api_keys (public_id, user_id, sha256) VALUES ('ABCDEFGHJKLM', 1, sha256('x'))",
        "DELETE FROM users",
        "DELETE FROM api_keys",
        "TRUNCATE users CASCADE",
        "TRUNCATE llama_requests",
        "SELECT * FROM llama_requests",
        "SELECT * FROM llama_requests_default",
        "UPDATE llama_requests SET username = 'bob'",
        "DELETE FROM llama_requests",
        "DROP TABLE llama_requests",
        "INSERT INTO llama_requests_default (username, path, status_code, duration_ms)"
        " VALUES ('a', '/', 200, 1)",
        "UPDATE key_epoch SET version = 1",
        "SELECT next_key_epoch(true)",
        "DELETE FROM schema_migrations",
        "ALTER TABLE users DISABLE TRIGGER ALL",
        "CREATE TABLE public.mine (a int)",
        "CREATE TEMP TABLE mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL'",
        "CREATE ROLE mallory",
        "CREATE DATABASE mine",
        "ALTER ROLE CURRENT_USER CREATEDB",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "SET ROLE postgres",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_the_proxy_may_not(proxy: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        proxy.execute(statement.encode())


def test_the_proxy_can_not_have_the_definer_function_run_its_own_code(
    proxy: psycopg.Connection,
) -> None:
    proxy.execute("SET search_path = pg_temp, public")
    proxy.execute("SET timezone = 'Pacific/Auckland'")
    assert proxy.execute("SELECT count(*) FROM ensure_request_partitions(12)").fetchone() == (4,)
    assert proxy.execute("SELECT count(*) FROM ensure_request_partitions(12)").fetchone() == (0,)
    for hostile in (-5, 2**31 - 1, None):
        proxy.execute("SELECT * FROM ensure_request_partitions(%s)", (hostile,))


def test_the_proxys_statements_end(settings: Settings) -> None:
    with psycopg.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        dbname=settings.postgres_db,
        user=settings.postgres_user,
        password=settings.secret("postgres_proxy_password"),
    ) as plain:
        assert plain.execute("SHOW statement_timeout").fetchone() == ("10s",)


def test_other_roles_can_not_connect(postgres: Postgres, settings: Settings) -> None:
    with postgres.connect() as superuser:
        superuser.execute("DROP ROLE IF EXISTS stranger")
        superuser.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        postgres.connect(settings.postgres_db, user="stranger", password="stranger")


def test_rights_that_drifted_are_set_again(settings: Settings, admin: psycopg.Connection) -> None:
    admin.execute(f'GRANT DELETE ON users TO "{settings.postgres_user}"'.encode())
    admin.execute("GRANT SELECT ON llama_requests TO PUBLIC")
    assert schema.initialise(settings) == [f"set the rights of {settings.postgres_user}"]
    assert schema.initialise(settings) == []
    with connect(settings, Role.PROXY) as proxy:
        for statement in (b"DELETE FROM users", b"SELECT * FROM llama_requests"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                proxy.execute(statement)


def test_no_password_is_in_the_servers_log(postgres: Postgres, settings: Settings) -> None:
    (settings.secrets_dir / "postgres_proxy_password").write_text("canary-second-password")
    assert provision.provision(settings)
    schema.initialise(settings)
    log = postgres.log.read_text()
    assert "ALTER ROLE" in log  # the log would show it
    for secret in settings.secrets_dir.iterdir():
        assert secret.read_text().strip() not in log
