"""Authorization headers: of good keys, and the kind that attackers send."""

from llamakit_proxy import keys


def bearer(key: keys.NewKey) -> bytes:
    return f"Bearer {key.text}".encode()


GOOD = keys.NewKey("ABCDEFGHJKLM", f"sk-lk-ABCDEFGHJKLM-{'x' * keys.SECRET_LENGTH}")

HOSTILE = [
    b"",
    b"Bearer",
    b"Bearer ",
    b"Basic YWxpY2U6eA==",
    GOOD.text.encode(),
    b"Bearer sk-proj-abcdefgh",
    b"Bearer " + GOOD.text.encode() + b"x",
    b"Bearer " + GOOD.text.encode()[:-1],
    b"Bearer " + GOOD.text.encode() + b"\n",
    b"Bearer " + GOOD.text.encode() + b" ",
    b"Bearer\t" + GOOD.text.encode(),
    b"Bearer " + GOOD.text.encode() + b"," + GOOD.text.encode(),
    b"Bearer sk-lk-' OR 1=1 --" + b"x" * 30,
    b"Bearer sk-lk-'; DROP TABLE users; --",
    b"Bearer ' UNION SELECT public_id, sha256 FROM api_keys --",
    b"Bearer sk-lk-ABCDEFGHJKL\0-" + b"x" * keys.SECRET_LENGTH,
    "Bearer sk-lk-ABCDEFGHJKL\N{CYRILLIC CAPITAL LETTER EM}-".encode() + b"x" * keys.SECRET_LENGTH,
    b"Bearer sk-lk-\xff\xfe\xfd",
    b"Bearer sk-lk-%41BCDEFGHJKLM-" + b"x" * keys.SECRET_LENGTH,
    b"Bearer " + b"A" * 1_000_000,
    b"Bearer " + b" " * 1_000_000 + GOOD.text.encode(),
    b"Bearer " + b"sk-lk-" * 200_000,
]
