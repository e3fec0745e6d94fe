"""Whose request it is: what a trusted proxy says counts, and nothing that anybody else says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy.client_address import MAX_HOPS, Client, find, networks

TRUSTED = networks("127.0.0.1, 10.0.0.0/8 2001:db8::/32")


def scope(peer: str | None, *forwarded: str, **others: str) -> dict[str, Any]:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in others.items()]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("127.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", ["127.0.0.1, 1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", ["9.9.9.9, 1.2.3.4, 10.1.2.3"], "1.2.3.4"),
        ("127.0.0.1", ["9.9.9.9", "1.2.3.4,10.1.2.3", "10.0.0.1"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:db9::1]:5678"], "2001:db9::1"),
        ("10.0.0.1", ["2001:DB9:0::1"], "2001:db9::1"),
        ("::ffff:10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        ("2001:db8::5", [" 1.2.3.4 "], "1.2.3.4"),
        ("10.0.0.1", ["fe80::1%eth0\x1b[31m"], "fe80::1"),
        ("127.0.0.1", ["10.0.0.9"], "10.0.0.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        # Not trusted: the header counts for nothing.
        ("1.2.3.4", ["127.0.0.1"], "1.2.3.4"),
        ("11.0.0.1", ["5.6.7.8", "127.0.0.1"], "11.0.0.1"),
        # Trusted, and it names nobody.
        ("127.0.0.1", ["unknown"], None),
        ("127.0.0.1", [""], None),
        ("127.0.0.1", ["1.2.3.4, "], None),
        ("127.0.0.1", ["1.2.3.4, _hidden, 10.0.0.1"], None),
        ("127.0.0.1", ["127.0.0.1 1.2.3.4"], None),
        ("127.0.0.1", ["10.0.0.1," * MAX_HOPS + "10.0.0.1"], None),
        (None, ["1.2.3.4"], None),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_right_most_address_that_is_not_trusted(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert find(scope(peer, *forwarded), TRUSTED).address == address


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_without_trusted_proxies_no_header_is_believed(peer: str) -> None:
    assert find(scope(peer)).here
    for header in ("x_forwarded_for", "forwarded", "x_real_ip", "via"):
        found = find(scope(peer, **{header: "127.0.0.1"}))
        assert found.address == peer.removeprefix("::ffff:")
        assert not found.here
    assert not find(scope("1.2.3.4", "127.0.0.1")).here


def test_who_is_on_this_machine_behind_a_trusted_proxy() -> None:
    assert find(scope("127.0.0.1"), TRUSTED).here
    assert find(scope("10.0.0.1", "127.0.0.1", via="proxy"), TRUSTED).here
    assert not find(scope("127.0.0.1", "127.0.0.1, 1.2.3.4"), TRUSTED).here
    assert not find(scope("127.0.0.1", "garbage"), TRUSTED).here
    # It speaks for others, and does not say for whom in the one way that counts.
    assert not find(scope("127.0.0.1", forwarded="for=127.0.0.1"), TRUSTED).here


@given(st.lists(st.text(st.characters(codec="latin-1")), max_size=40))
def test_a_client_can_add_nothing_to_what_its_proxy_says(entries: list[str]) -> None:
    """Whatever a client sends, its proxy appends who that was."""
    assert find(
        {
            "client": ("10.0.0.1", 1),
            "headers": [
                *((b"x-forwarded-for", entry.encode("latin-1")) for entry in entries),
                (b"x-forwarded-for", b"1.2.3.4"),
            ],
        },
        TRUSTED,
    ) == Client("1.2.3.4", here=False)


@given(st.binary(max_size=60))
def test_any_bytes(value: bytes) -> None:
    found = find({"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", value)]}, TRUSTED)
    assert found.address is None or found.address.isprintable()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost", "'localhost' is neither"),
        ("10.0.0.1/8", "'10.0.0.1/8' is neither"),
        ("10.0.0.0/33", "neither"),
        ("10.0.0.1,,x", "'x' is neither"),
        ("0.0.0.0/0", "is everybody"),
        ("10.0.0.1 ::/0", "'::/0' is everybody"),
        ("1.2.3.4:80", "neither"),
    ],
)
def test_what_is_no_network(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        networks(text)


def test_networks() -> None:
    assert networks("") == networks(" , ") == ()
    assert list(map(str, networks("10.0.0.1, ::1\t192.168.0.0/16"))) == [
        "10.0.0.1/32",
        "::1/128",
        "192.168.0.0/16",
    ]
