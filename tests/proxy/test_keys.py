"""How keys look, and what is read out of headers that anybody may send."""

import hashlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import keys
from support.bearers import GOOD, HOSTILE, bearer


def test_a_generated_key_is_read_back() -> None:
    key = keys.generate()
    presented = keys.from_authorization(bearer(key))
    assert presented is not None
    assert presented.public_id == key.public_id
    assert presented.sha256 == key.sha256 == hashlib.sha256(key.text.encode()).digest()


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert keys.from_authorization(f"{scheme}{GOOD.text}".encode()) is not None


def test_keys_differ_and_are_long_enough() -> None:
    made = [keys.generate() for _ in range(500)]
    assert len({key.public_id for key in made}) == len({key.text for key in made}) == 500
    secrets = [key.text.rpartition("-")[2] for key in made]
    assert {len(secret) for secret in secrets} == {keys.SECRET_LENGTH}
    assert len(keys.ALPHABET) ** keys.SECRET_LENGTH > 2**128
    assert set("".join(secrets)) == set(keys.ALPHABET)


def test_a_key_does_not_show_itself() -> None:
    secret = GOOD.text.rpartition("-")[2]
    assert secret not in repr(GOOD) + str(GOOD)
    assert GOOD.sha256.hex() not in repr(keys.from_authorization(bearer(GOOD)))


@pytest.mark.parametrize("header", HOSTILE, ids=lambda header: repr(header[:24]))
def test_hostile_headers_are_no_key(header: bytes) -> None:
    start = time.perf_counter()
    assert keys.from_authorization(header) is None
    assert time.perf_counter() - start < 0.5


def test_no_header_is_no_key() -> None:
    assert keys.from_authorization(None) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_no_key(header: bytes) -> None:
    assert keys.from_authorization(header) is None
    assert keys.from_authorization(b"Bearer " + header) is None


def test_every_single_changed_character_changes_what_is_asked() -> None:
    header = f"Bearer {GOOD.text}"
    expected = keys.from_authorization(header.encode())
    for place in range(len("Bearer sk-lk-"), len(header)):
        if header[place] == "-":
            continue
        other = random.choice([c for c in keys.ALPHABET if c != header[place]])
        changed = keys.from_authorization((header[:place] + other + header[place + 1 :]).encode())
        assert changed is not None
        assert changed != expected
