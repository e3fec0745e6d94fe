"""The check of a provided certificate and its key on the controller, before a host is touched."""

import subprocess
import sys
from pathlib import Path

from playbooks.plugins.filter.proxy_settings import FilterModule, certificate_problem

from support.certificates import Pair, ended, locked_key, self_signed, signed_by_an_authority
from support.play import CHECKOUT, Play, run_tasks


def problem(certificate: Path, key: Path) -> str:
    """What the filter says of two files, which it calls C and K."""
    found = certificate_problem(
        certificate.read_text(errors="surrogateescape"),
        key.read_text(errors="surrogateescape"),
        "C",
        "K",
    )
    assert "-----BEGIN PRIVATE KEY-----\n" not in found
    assert "/tmp" not in found
    return found


def test_a_pair_is_no_problem(tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    assert problem(pair.certificate, pair.key) == ""
    chain, _ = signed_by_an_authority(tmp_path)
    assert problem(chain.certificate, chain.key) == ""


def test_what_the_proxy_could_not_use_is_told_with_the_files_names(tmp_path: Path) -> None:
    pair, other = self_signed(tmp_path), self_signed(tmp_path, "other")
    assert "the key K does not belong to the certificate C" in problem(pair.certificate, other.key)
    assert "the key K is locked with a passphrase" in problem(pair.certificate, locked_key(pair))
    assert "C holds no certificate" in problem(pair.key, pair.key)
    assert "can't use the certificate C with the key K" in problem(
        pair.certificate, pair.certificate
    )
    der = tmp_path / "der"
    subprocess.run(
        ["openssl", "x509", "-in", pair.certificate, "-outform", "DER", "-out", der], check=True
    )
    assert "C holds no certificate" in problem(der, pair.key)


def test_a_certificate_that_has_ended_is_refused(tmp_path: Path) -> None:
    pair = ended(self_signed(tmp_path))
    assert "the certificate C ended on 20" in problem(pair.certificate, pair.key)


def preflight(folder: Path, pair: Pair, *arguments: str) -> Play:
    """The role's own checks with these files, as talkative as Ansible can be."""
    task = {
        "name": "Check",
        "ansible.builtin.include_role": {"name": "auth_proxy", "tasks_from": "preflight"},
    }
    done = {"name": "Say so", "ansible.builtin.set_fact": {"result": "checked"}}
    return run_tasks(
        folder, [task, done], "-vvv", *arguments,
        auth_proxy_tls="provided",
        auth_proxy_tls_certificate_file=str(pair.certificate),
        auth_proxy_tls_key_file=str(pair.key),
    )  # fmt: skip


def test_a_wrong_key_ends_the_run_before_anything_changes(tmp_path: Path) -> None:
    pair, other = self_signed(tmp_path), self_signed(tmp_path, "other")
    wrong = preflight(tmp_path, Pair(pair.certificate, other.key))
    assert wrong.code == 2
    assert f"{other.key} does not belong to the certificate {pair.certificate}" in wrong.output
    assert other.key.read_text().splitlines()[1] not in wrong.output


def test_a_vaulted_key_is_checked_as_it_will_be_installed(tmp_path: Path) -> None:
    pair, password = self_signed(tmp_path), tmp_path / "password"
    password.write_text("x" * 12)
    vault = Path(sys.executable).with_name("ansible-vault")
    given = f"--vault-password-file={password}"
    subprocess.run([vault, "encrypt", given, pair.key], check=True, cwd=CHECKOUT)
    right = preflight(tmp_path, pair, given)
    assert right.code == 0, right.output


def test_ansible_finds_it() -> None:
    assert FilterModule().filters()["certificate_problem"] is certificate_problem
