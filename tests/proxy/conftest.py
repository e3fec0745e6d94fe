"""Fixtures of the proxy's tests: a real PostgreSQL for the session, a database for each test."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from llamakit_proxy.auth import KeyStore
from llamakit_proxy.database import Role, connect
from llamakit_proxy.settings import Settings
from support.command import Command, run_command
from support.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that all tests of the session share; a test that harms it starts its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server this test may harm."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def settings(postgres: Postgres) -> Settings:
    """Settings for a new database with the schema and no users."""
    return postgres.new_database()


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection]:
    """A connection of the database's owner."""
    with connect(settings, Role.ADMIN) as connection:
        yield connection


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[KeyStore]:
    """A key store that follows the test's database."""
    store = KeyStore(settings)
    await store.start()
    assert store.connected
    yield store
    await store.close()


@pytest.fixture
def command(
    postgres: Postgres,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """llamakit-proxy's command line on the test's database."""
    for name, value in postgres.environment(settings.postgres_db).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: run_command(capsys, arguments)
