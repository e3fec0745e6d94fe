"""Keys while Postgres is away, hangs or is not set up yet, and when it is back."""

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from llamakit_proxy import key_feed, keys, provision, schema, users
from llamakit_proxy.auth import KeyStore
from llamakit_proxy.database import Role, connect
from llamakit_proxy.errors import ApiError
from llamakit_proxy.settings import Settings
from support.bearers import bearer
from support.key_store import accepted_within, refused_within, status_of
from support.log_rows import until
from support.postgres import Postgres
from support.relay import relay_to


async def test_a_postgres_killed_and_back(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llamakit_proxy")
    settings = own_postgres.new_database()
    with connect(settings, Role.ADMIN) as admin:
        known = users.create(admin, "alice")
        expiring = users.create(admin, "carol", lifetime=timedelta(seconds=3))
        unknown = users.create(admin, "bob")
    store = KeyStore(settings)
    await store.start()
    for key in (known, expiring):
        assert await status_of(store, bearer(key)) == 200
    own_postgres.stop(signal.SIGKILL)
    await asyncio.sleep(0.1)
    with pytest.raises(ApiError) as refusal:
        await store.authenticate(bearer(unknown))
    assert refusal.value.status == 503
    assert int(refusal.value.headers["Retry-After"]) >= 1
    assert not store.connected
    assert await status_of(store, bearer(known)) == 200
    assert await status_of(store, b"Bearer nonsense") == 401
    wrong_secret = keys.NewKey(known.public_id, known.text[:-3] + "abc")
    assert await status_of(store, bearer(wrong_secret)) == 401
    await refused_within(store, bearer(expiring), 5)  # expiry needs no database
    own_postgres.start()
    await accepted_within(store, bearer(unknown))
    with connect(settings, Role.ADMIN) as admin:
        users.revoke(admin, known.public_id)
    await refused_within(store, bearer(known))
    await store.close()
    told = [record.getMessage() for record in caplog.records]
    assert any("keys in use go on" in line for line in told)
    assert sum("following the database" in line for line in told) == 2
    assert len(told) < 12
    for key in (known, expiring, unknown):
        assert key.text.rpartition("-")[2] not in caplog.text


async def test_a_key_ended_before_an_outage_and_not_used_since_stays_ended(
    own_postgres: Postgres,
) -> None:
    settings = own_postgres.new_database()
    store = KeyStore(settings)
    await store.start()
    with connect(settings, Role.ADMIN) as admin:
        made = {name: users.create(admin, name) for name in ("revoked", "deleted", "last", "kept")}
        for key in made.values():
            assert await status_of(store, bearer(key)) == 200
        users.revoke(admin, made["revoked"].public_id)
        users.delete(admin, "deleted")
        users.revoke(admin, made["last"].public_id)
    # A change that comes last is known last.
    await refused_within(store, bearer(made["last"]))
    own_postgres.stop(signal.SIGKILL)
    assert await status_of(store, bearer(made["revoked"])) == 401
    assert await status_of(store, bearer(made["deleted"])) == 401
    assert await status_of(store, bearer(made["kept"])) == 200
    await store.close()


async def test_a_postgres_that_hangs_is_away(own_postgres: Postgres) -> None:
    settings = own_postgres.new_database()
    with connect(settings, Role.ADMIN) as admin:
        known, unknown = users.create(admin, "alice"), users.create(admin, "bob")
        store = KeyStore(settings)
        await store.start()
        assert await status_of(store, bearer(known)) == 200
        server_processes = [
            pid for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity").fetchall()
        ]
    assert own_postgres.pid is not None
    stopped = [own_postgres.pid, *server_processes]
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
    try:
        start = time.monotonic()
        assert await status_of(store, bearer(unknown)) == 503
        assert time.monotonic() - start < 6
        assert await status_of(store, bearer(known)) == 200
    finally:
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
    await accepted_within(store, bearer(unknown), 10)
    await store.close()


async def test_a_flood_of_unknown_keys_is_not_waited_for_without_end(
    postgres: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them costs memory until Postgres answers."""
    monkeypatch.setattr(key_feed, "_MAX_ASKED", 3)
    async with relay_to(postgres.port) as relay:
        store = KeyStore(replace(settings, postgres_port=relay.port))
        await store.start()
        assert store.connected
        relay.hold_answers(containing=b"")
        made = [keys.generate() for _ in range(4)]
        waiting = [asyncio.create_task(status_of(store, bearer(key))) for key in made[:3]]
        await until(lambda: len(store._feed._asked) == 3, 3)
        assert await status_of(store, bearer(made[3])) == 503
        # Who asks for one of those that are asked for already costs no more.
        waiting.append(asyncio.create_task(status_of(store, bearer(made[0]))))
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        relay.release_answers()
        assert await asyncio.gather(*waiting) == [401] * 4
        assert await status_of(store, bearer(made[3])) == 401
        await store.close()


async def test_starting_without_a_postgres(own_postgres: Postgres) -> None:
    settings = own_postgres.new_database()
    with connect(settings, Role.ADMIN) as admin:
        key = users.create(admin, "alice")
    own_postgres.stop()
    store = KeyStore(settings)
    await store.start()
    assert not store.connected
    assert await status_of(store, bearer(key)) == 503
    assert await status_of(store, None) == 401
    own_postgres.start()
    await accepted_within(store, bearer(key))
    await store.close()


async def test_starting_before_the_schema(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    settings = postgres.settings("early")
    provision.provision(settings)
    store = KeyStore(settings)
    await store.start()
    assert await status_of(store, bearer(keys.generate())) == 503
    assert "init-db" in caplog.text
    schema.initialise(settings)
    with connect(settings, Role.ADMIN) as admin:
        key = users.create(admin, "alice")
    await accepted_within(store, bearer(key))
    await store.close()
