"""The host's own certificate, by the real openssl: when the one there is kept, and when not."""

from __future__ import annotations

import getpass
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from llamakit import certificate
from llamakit.certificate import CERTIFICATE, KEY, LIFE_DAYS, RENEWED_DAYS_BEFORE

NAMES = ["gpu01", "10.0.0.7", "::1"]

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The secrets' folder with a certificate for NAMES."""
    assert ensure(tmp_path)
    return tmp_path


def ensure(folder: Path, names: list[str] | None = None) -> bool:
    return certificate.ensure(folder, names or NAMES, getpass.getuser())


def test_one_for_its_cn_alone_is_replaced(folder: Path) -> None:
    """As one that was provided once may be."""
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:P-256", "-days", "90", "-subj", "/CN=gpu01", "-keyout", KEY,
         "-out", CERTIFICATE],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    assert ensure(folder)
    assert not ensure(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_a_pair(folder: Path) -> bool:
    """As the proxy finds out: by loading them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except ssl.SSLError:
        return False
    return True


def shorten(folder: Path, days: int) -> None:
    """The same certificate, made anew from its key, that ends in so many days."""
    made = str(folder / CERTIFICATE)
    request = ["openssl", "req", "-x509", "-key", str(folder / KEY), "-out", made]
    names = "subjectAltName=DNS:gpu01,IP:10.0.0.7,IP:::1"
    request += ["-days", str(days), "-subj", "/CN=gpu01", "-addext", names]
    subprocess.run(request, check=True, capture_output=True, timeout=60)


def test_a_pair_that_is_good_is_kept(folder: Path) -> None:
    before = content(folder)
    assert set(before) == {CERTIFICATE, KEY}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert is_a_pair(folder)
    assert not ensure(folder)
    assert content(folder) == before


def test_another_ones_key_is_replaced(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run that was interrupted between the two leaves that, and the proxy can't start with it."""
    other = tmp_path_factory.mktemp("other")
    assert ensure(other)
    (folder / KEY).write_bytes((other / KEY).read_bytes())
    assert not is_a_pair(folder)
    assert ensure(folder)
    assert is_a_pair(folder)
    assert not ensure(folder)


@pytest.mark.parametrize(
    ("days", "renewed"),
    [(RENEWED_DAYS_BEFORE - 1, True), (RENEWED_DAYS_BEFORE + 1, False), (LIFE_DAYS, False)],
)
def test_it_is_renewed_a_month_before_its_end(folder: Path, days: int, renewed: bool) -> None:
    shorten(folder, days)
    assert is_a_pair(folder)
    assert ensure(folder) == renewed
    assert not ensure(folder)


@pytest.mark.parametrize(
    "names", [["gpu01"], [*NAMES, "llm.example.org"], ["gpu02", *NAMES[1:]]], ids=str
)
def test_other_names_make_another_one(folder: Path, names: list[str]) -> None:
    assert ensure(folder, names)
    assert not ensure(folder, names)


def test_the_order_and_the_spelling_of_the_names_change_nothing(folder: Path) -> None:
    assert not ensure(folder, NAMES[::-1])
    assert ensure(folder, ["2001:db8::a:1"])
    assert not ensure(folder, ["2001:DB8:0::0A:1"])


@pytest.mark.parametrize("name", [CERTIFICATE, KEY])
@pytest.mark.parametrize("damage", ["gone", "empty", "torn"])
def test_what_is_not_whole_is_replaced(folder: Path, name: str, damage: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "gone":
        (folder / name).write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    assert ensure(folder)
    assert is_a_pair(folder)


def test_a_name_that_openssl_refuses_changes_nothing(folder: Path) -> None:
    before = content(folder)
    with pytest.raises(certificate.CertificateError, match="openssl req failed"):
        ensure(folder, ["gpu01", "bad name\n,x:"])
    assert content(folder) == before
