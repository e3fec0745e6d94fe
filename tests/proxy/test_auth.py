"""KeyStore on a real PostgreSQL: who gets in, and how little Postgres is asked for that."""

import asyncio
import secrets
import time
from datetime import datetime, timedelta

import psycopg
import pytest

from llamakit_proxy import keys, users
from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.settings import Settings
from support.bearers import HOSTILE, bearer
from support.key_store import status_of
from support.postgres import Postgres


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
