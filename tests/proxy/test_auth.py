"""KeyStore against a real PostgreSQL."""

import asyncio
import hashlib
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta

import psycopg
import pytest

from llamakit_proxy import keys, provision, schema, users
from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.database import Role, connect
from llamakit_proxy.errors import ApiError
from llamakit_proxy.settings import Settings
from support.bearers import HOSTILE, bearer
from support.postgres import Postgres, running_postgres
from support.relay import relay_to

REVOKED_WITHIN_SECONDS = 1.0


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[KeyStore]:
    store = KeyStore(settings)
    await store.start()
    assert store.connected
    yield store
    await store.close()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server this test may harm."""
    with running_postgres() as server:
        yield server


async def refused_within(store: KeyStore, header: bytes, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await store.authenticate(header)
        except RefusedKeyError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the key was still good after {seconds} s")


async def accepted_within(store: KeyStore, header: bytes, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await store.authenticate(header)
        except ApiError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError(f"the key was not good after {seconds} s")


async def status_of(store: KeyStore, header: bytes | None) -> int:
    try:
        await store.authenticate(header)
    except ApiError as error:
        return error.status
    return 200


async def test_a_good_key_has_the_identity_of_its_user(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(
        admin, "alice", rate_limit=7, rate_window_seconds=9, allowed_models=["a", "b"]
    )
    identity = await store.authenticate(bearer(key))
    assert identity.username == "alice"
    assert identity.user_id == users.get(admin, "alice").id
    assert identity.key_id == key.public_id
    assert identity.allowed_models == frozenset({"a", "b"})
    assert (identity.rate_limit, identity.rate_window_seconds) == (7, 9)
    assert identity.expires_at is None


async def test_an_empty_list_of_models_is_not_all_models(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice", allowed_models=[])
    assert (await store.authenticate(bearer(key))).allowed_models == frozenset()


async def test_all_refused_keys_get_the_same_answer(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    disabled = users.create(admin, "disabled")
    users.set_status(admin, "disabled", "disabled")
    revoked = users.create(admin, "revoked")
    users.revoke(admin, revoked.public_id)
    expired = users.create(admin, "expired", lifetime=timedelta(seconds=1))
    admin.execute(
        "UPDATE api_keys SET expires_at = now() WHERE public_id = %s", (expired.public_id,)
    )
    good = users.create(admin, "good")
    wrong_secret = keys.NewKey(
        good.public_id, f"{good.text[:-1]}{'y' if good.text[-1] != 'y' else 'z'}"
    )
    answers = []
    for key in (disabled, revoked, expired, wrong_secret, keys.generate()):
        with pytest.raises(RefusedKeyError) as refusal:
            await store.authenticate(bearer(key))
        error = refusal.value
        answers.append((error.status, error.encode(), error.headers))
        assert key.text.rpartition("-")[2] not in error.encode().decode()
        known = error.identity.username if error.identity else None
        names = {disabled: "disabled", revoked: "revoked", expired: "expired"}
        assert known == names.get(key)
    assert answers == [answers[0]] * 5
    status, body, headers = answers[0]
    assert status == 401
    assert b'"code":"invalid_api_key"' in body
    assert headers["WWW-Authenticate"].startswith("Bearer")
    await store.authenticate(bearer(good))


async def test_hostile_headers_get_401_and_reach_no_database(
    store: KeyStore, postgres: Postgres
) -> None:
    before = postgres.log.read_text().count("JOIN users ON users.id")
    for header in [None, *HOSTILE]:
        assert await status_of(store, header) == 401
    assert postgres.log.read_text().count("JOIN users ON users.id") == before


async def test_two_keys_that_share_all_but_the_secret_share_no_identity(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice")
    await store.authenticate(bearer(key))
    for cut in range(len(key.text) - keys.SECRET_LENGTH, len(key.text)):
        rest = "".join(secrets.choice(keys.ALPHABET) for _ in key.text[cut:])
        if rest != key.text[cut:]:
            assert await status_of(store, f"Bearer {key.text[:cut]}{rest}".encode()) == 401


@pytest.mark.parametrize("how", ["revoke", "disable", "delete", "rotate", "expire", "swap"])
async def test_an_end_of_a_key_holds_within_a_second(
    store: KeyStore, admin: psycopg.Connection, how: str
) -> None:
    key = users.create(admin, "alice")
    other = users.create(admin, "bob")
    await store.authenticate(bearer(key))
    await store.authenticate(bearer(other))
    match how:
        case "revoke":
            users.revoke(admin, key.public_id)
        case "disable":
            users.set_status(admin, "alice", "disabled")
        case "delete":
            users.delete(admin, "alice")
        case "rotate":
            users.rotate(admin, "alice", overlap=timedelta())
        case "expire":
            admin.execute("UPDATE api_keys SET expires_at = now() WHERE user_id = 1")
        case "swap":
            digest = hashlib.sha256(b"another").digest()
            admin.execute("UPDATE api_keys SET sha256 = %s WHERE user_id = 1", (digest,))
    await refused_within(store, bearer(key), REVOKED_WITHIN_SECONDS)
    await asyncio.sleep(0.6)
    assert await status_of(store, bearer(key)) == 401
    assert await status_of(store, bearer(other)) == 200


async def test_weight_and_priority_are_known_within_a_second(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice", weight=3)
    identity = await store.authenticate(bearer(key))
    assert (identity.weight, identity.batch) == (3, False)
    users.set_weight(admin, "alice", 7)
    await asyncio.sleep(REVOKED_WITHIN_SECONDS)
    assert (await store.authenticate(bearer(key))).weight == 7
    users.set_priority(admin, key.public_id, "batch")
    await asyncio.sleep(REVOKED_WITHIN_SECONDS)
    assert (await store.authenticate(bearer(key))).batch


async def test_revocation_holds_also_when_the_notification_is_lost(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice")
    await store.authenticate(bearer(key))
    function = admin.execute("SELECT pg_get_functiondef('next_key_epoch'::regproc)").fetchone()
    assert function is not None
    assert "pg_notify" in function[0]
    admin.execute(function[0].replace("pg_notify", "concat"))
    users.revoke(admin, key.public_id)
    await refused_within(store, bearer(key), REVOKED_WITHIN_SECONDS)


async def test_revocation_holds_also_while_the_lookup_is_in_flight(
    postgres: Postgres, settings: Settings, admin: psycopg.Connection
) -> None:
    async with relay_to(postgres.port) as relay:
        delayed = postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        store = KeyStore(delayed)
        await store.start()
        key = users.create(admin, "alice")
        await asyncio.sleep(0.1)
        # The answer that says the key is good has left the server when the key is revoked.
        relay.hold_answers(containing=b"alice")
        lookup = asyncio.create_task(status_of(store, bearer(key)))
        await relay.holding.wait()
        users.revoke(admin, key.public_id)
        await asyncio.sleep(0.2)
        relay.release_answers()
        assert await lookup == 200
        await refused_within(store, bearer(key), REVOKED_WITHIN_SECONDS)
        await asyncio.sleep(0.6)
        assert await status_of(store, bearer(key)) == 401
        await store.close()


async def test_revocation_while_the_connection_was_lost(
    postgres: Postgres, settings: Settings, admin: psycopg.Connection
) -> None:
    async with relay_to(postgres.port) as relay:
        store = KeyStore(
            postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        )
        await store.start()
        revoked, kept = users.create(admin, "alice"), users.create(admin, "bob")
        await store.authenticate(bearer(revoked))
        await store.authenticate(bearer(kept))
        users.revoke(admin, revoked.public_id)
        relay.cut()
        await refused_within(store, bearer(revoked), REVOKED_WITHIN_SECONDS)
        assert await status_of(store, bearer(kept)) == 200
        await store.close()


async def test_a_restored_older_database_counts(store: KeyStore, admin: psycopg.Connection) -> None:
    key = users.create(admin, "alice")
    await store.authenticate(bearer(key))
    with admin.transaction():
        admin.execute("ALTER TABLE users DISABLE TRIGGER USER")
        admin.execute("UPDATE users SET status = 'disabled'")
        admin.execute("ALTER TABLE users ENABLE TRIGGER USER")
        admin.execute("UPDATE key_epoch SET version = 1")
    await refused_within(store, bearer(key), REVOKED_WITHIN_SECONDS)


async def test_changes_in_one_transaction_and_after_a_rollback_are_seen(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    made = [users.create(admin, f"user{n}") for n in range(20)]
    for key in made:
        await store.authenticate(bearer(key))
    with admin.transaction():
        try:
            with admin.transaction():
                admin.execute("UPDATE users SET rate_limit = 1")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        admin.execute("UPDATE users SET status = 'disabled' WHERE username = 'user3'")
        admin.execute("UPDATE api_keys SET revoked_at = now() WHERE public_id = %s",
                      (made[5].public_id,))  # fmt: skip
    await refused_within(store, bearer(made[3]), REVOKED_WITHIN_SECONDS)
    await refused_within(store, bearer(made[5]), REVOKED_WITHIN_SECONDS)
    for number, key in enumerate(made):
        assert await status_of(store, bearer(key)) == (401 if number in (3, 5) else 200)
        if number not in (3, 5):
            assert (await store.authenticate(bearer(key))).rate_limit is None


async def test_a_change_of_limits_reaches_the_identity(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice")
    assert (await store.authenticate(bearer(key))).rate_limit is None
    users.set_limits(admin, "alice", {"rate_limit": 3, "token_limit": 9, "month_budget": 8})
    users.allow_models(admin, "alice", ["tiny"])
    await asyncio.sleep(REVOKED_WITHIN_SECONDS)
    identity = await store.authenticate(bearer(key))
    assert (identity.rate_limit, identity.allowed_models) == (3, frozenset({"tiny"}))
    assert (identity.token_limit, identity.day_budget, identity.month_budget) == (9, None, 8)
    for column in users.LIMITS:
        users.set_limits(admin, "alice", {column: 77})
        deadline = time.monotonic() + REVOKED_WITHIN_SECONDS
        while getattr(await store.authenticate(bearer(key)), column) != 77:
            assert time.monotonic() < deadline, column
            await asyncio.sleep(0.01)


async def test_expiry_is_looked_at_on_every_use(store: KeyStore, admin: psycopg.Connection) -> None:
    key = users.create(admin, "alice", lifetime=timedelta(seconds=1))
    identity = await store.authenticate(bearer(key))
    assert identity.expires_at == pytest.approx(time.time() + 1, abs=0.5)
    await refused_within(store, bearer(key), 2)


async def test_rotation_with_overlap_leaves_both_keys_good(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    old = users.create(admin, "alice")
    await store.authenticate(bearer(old))
    new, ended = users.rotate(admin, "alice", overlap=timedelta(seconds=2))
    assert ended == [old.public_id]
    assert await status_of(store, bearer(new)) == 200
    assert await status_of(store, bearer(old)) == 200
    first, second = await store.authenticate(bearer(old)), await store.authenticate(bearer(new))
    assert first.user_id == second.user_id
    await refused_within(store, bearer(old), 3)
    assert await status_of(store, bearer(new)) == 200


async def test_a_key_made_after_its_id_was_refused_is_good(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    key = keys.generate()
    assert await status_of(store, bearer(key)) == 401
    users.create(admin, "alice")
    admin.execute(
        "INSERT INTO api_keys (public_id, user_id, sha256) VALUES (%s, 1, %s)",
        (key.public_id, key.sha256),
    )
    await accepted_within(store, bearer(key), REVOKED_WITHIN_SECONDS)


async def test_a_flood_of_invented_keys_costs_few_queries_and_pushes_nobody_out(
    store: KeyStore, postgres: Postgres, admin: psycopg.Connection
) -> None:
    good = users.create(admin, "alice")
    await store.authenticate(bearer(good))
    lookup = "JOIN users ON users.id"
    before = postgres.log.read_text().count(lookup)
    flood = [bearer(keys.generate()) for _ in range(3_000)]
    assert set(await asyncio.gather(*(status_of(store, header) for header in flood))) == {401}
    after = postgres.log.read_text().count(lookup)
    assert after - before <= 24  # batches of 500, each seen up to three times in this log
    assert set(await asyncio.gather(*(status_of(store, header) for header in flood))) == {401}
    assert await status_of(store, bearer(good)) == 200
    assert postgres.log.read_text().count(lookup) == after


async def test_many_requests_with_one_unknown_key_ask_once(
    store: KeyStore, postgres: Postgres, admin: psycopg.Connection
) -> None:
    key = users.create(admin, "alice")
    await asyncio.sleep(0.1)
    before = postgres.log.read_text().count(key.public_id)
    tasks = [asyncio.create_task(status_of(store, bearer(key))) for _ in range(300)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # a client that leaves takes nobody else's answer along
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1:] == [200] * 299
    assert postgres.log.read_text().count(key.public_id) - before <= 2


async def test_last_use_is_written(settings: Settings, admin: psycopg.Connection) -> None:
    used, unused = users.create(admin, "alice"), users.create(admin, "bob")
    epoch = admin.execute("SELECT version FROM key_epoch").fetchone()
    store = KeyStore(settings)
    await store.start()
    for _ in range(50):
        await store.authenticate(bearer(used))
    await store.close()
    rows: dict[str, datetime] = dict(
        admin.execute(
            "SELECT public_id, last_used_at FROM api_keys WHERE last_used_at IS NOT NULL"
        ).fetchall()
    )
    assert unused.public_id not in rows
    assert rows[used.public_id].timestamp() == pytest.approx(time.time(), abs=5)
    assert admin.execute("SELECT version FROM key_epoch").fetchone() == epoch


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
    await accepted_within(store, bearer(unknown), 5)
    with connect(settings, Role.ADMIN) as admin:
        users.revoke(admin, known.public_id)
    await refused_within(store, bearer(known), REVOKED_WITHIN_SECONDS)
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
        made = {name: users.create(admin, name) for name in ("revoked", "deleted", "kept")}
        for key in made.values():
            assert await status_of(store, bearer(key)) == 200
        users.revoke(admin, made["revoked"].public_id)
        users.delete(admin, "deleted")
    await asyncio.sleep(REVOKED_WITHIN_SECONDS)
    own_postgres.stop(signal.SIGKILL)
    assert await status_of(store, bearer(made["revoked"])) == 401
    assert await status_of(store, bearer(made["deleted"])) == 401
    assert await status_of(store, bearer(made["kept"])) == 200
    await store.close()


async def test_a_change_of_everything_holds_within_a_second(
    store: KeyStore, admin: psycopg.Connection
) -> None:
    """More changes at once than are told one by one."""
    made = [keys.generate() for _ in range(2_500)]
    with admin.transaction(), admin.cursor() as cursor:
        cursor.executemany(
            "WITH added AS (INSERT INTO users (username) VALUES (%s) RETURNING id)"
            " INSERT INTO api_keys (public_id, user_id, sha256) SELECT %s, id, %s FROM added",
            [(f"user{n}", key.public_id, key.sha256) for n, key in enumerate(made)],
        )
    headers = [bearer(key) for key in made]
    assert set(await asyncio.gather(*(status_of(store, h) for h in headers))) == {200}
    admin.execute("UPDATE users SET status = 'disabled'")
    await asyncio.sleep(REVOKED_WITHIN_SECONDS)
    assert set(await asyncio.gather(*(status_of(store, h) for h in headers))) == {401}


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
    await accepted_within(store, bearer(key), 5)
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
    await accepted_within(store, bearer(key), 5)
    await store.close()
