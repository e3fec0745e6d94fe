"""The bounds of what a process remembers."""

from llamakit_proxy.identity import Identity
from llamakit_proxy.key_cache import CachedKey, KeyCache


def key(number: int) -> CachedKey:
    identity = Identity(
        user_id=number,
        username=f"user{number}",
        key_id=str(number),
        allowed_models=None,
        rate_limit=None,
        rate_window_seconds=None,
        expires_at=None,
    )
    return CachedKey(identity, active=True, sha256=bytes(32))


def test_invented_ids_push_out_each_other_and_no_key() -> None:
    cache = KeyCache(max_keys=10, max_absent=10)
    for number in range(10):
        cache.put(str(number), key(number))
    for number in range(1_000):
        cache.put(f"invented{number}", None)
    assert cache.key_ids() == [str(number) for number in range(10)]
    assert sum(cache.is_sure(f"invented{number}") for number in range(1_000)) == 10


def test_the_least_recently_used_key_goes_first() -> None:
    cache = KeyCache(max_keys=3)
    for number in range(3):
        cache.put(str(number), key(number))
    cache.get("0")
    cache.put("3", key(3))
    assert sorted(cache.key_ids()) == ["0", "2", "3"]


def test_doubted_keys_are_kept_but_not_sure() -> None:
    cache = KeyCache()
    for number in range(3):
        cache.put(str(number), key(number))
    cache.put("absent", None)
    assert cache.doubt("1")
    assert not cache.doubt("unknown")
    assert [cache.is_sure(name) for name in ("0", "1", "2", "absent")] == [True, False, True, True]
    assert cache.get("1") is not None
    cache.put("1", key(1))
    assert cache.is_sure("1")
    cache.doubt_all()
    assert not any(cache.is_sure(name) for name in ("0", "1", "2", "absent"))
    cache.put("0", None)
    assert cache.is_sure("0")
    assert cache.get("0") is None


def test_a_key_takes_the_place_of_its_absence_and_keeps_its_last_use() -> None:
    cache = KeyCache()
    cache.put("0", None)
    first = key(0)
    cache.put("0", first)
    first.noted_at = 5.0
    cache.put("0", key(0))
    again = cache.get("0")
    assert again is not None
    assert again is not first
    assert again.noted_at == 5.0


def test_a_cached_key_does_not_show_its_hash() -> None:
    assert "sha256" not in repr(key(1))
