"""What is wrong is refused before anything changes, with all that is wrong on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.certificates import self_signed
from support.hosts import Host, play

STATE = "cat /etc/llamakit/*.* /etc/llamakit/models.d/* /etc/systemd/system/llamakit* | sha256sum"


def refusal(hosts: list[Host], **variables: Any) -> str:
    before = {host.name: (host.pids(), host.run(STATE)) for host in hosts}
    said = play(expect=2, **variables).output
    assert {host.name: (host.pids(), host.run(STATE)) for host in hosts} == before
    return said


def test_a_broken_models_file(hosts: list[Host], tmp_path: Path) -> None:
    broken = tmp_path / "models.yaml"
    broken.write_text("models:\n  - id: script\n    sauce: {path: /srv/models/script.gguf}\n")
    said = refusal(hosts, llama_server_models_file=str(broken))
    assert "sauce" in said
    assert "Nothing was changed." in said


def test_two_models_of_one_name_and_a_port_that_is_taken(hosts: list[Host], tmp_path: Path) -> None:
    broken = tmp_path / "models.yaml"
    entry = "  - {id: script, port: 8010, source: {path: /srv/models/script.gguf}}\n"
    broken.write_text("models:\n" + 2 * entry)
    said = refusal(hosts, llama_server_models_file=str(broken))
    assert "script" in said
    assert "8010" in said


def test_a_secret_that_is_too_short_is_named_and_not_shown(hosts: list[Host]) -> None:
    said = refusal(
        hosts,
        llamakit_secrets_given={"postgres_proxy_password": "tiny-canary"[:8]},
        llamakit_secure_logging=True,
    )
    assert "tiny-can" not in said


def test_settings_that_the_proxy_refuses(hosts: list[Host]) -> None:
    said = refusal(hosts, auth_proxy_max_tokens=0)
    assert "LLAMA_PROXY_MAX_TOKENS is '0'; expected a whole number 1..1000000" in said
    assert "auth_proxy_x" in said


def test_a_certificate_that_is_not_there(hosts: list[Host]) -> None:
    said = refusal(
        hosts, auth_proxy_tls="provided", auth_proxy_tls_certificate_file="/nowhere/cert.pem"
    )
    assert "/nowhere/cert.pem" in said
    assert "auth_proxy_tls_key_file" in said


def test_a_key_of_another_certificate(hosts: list[Host], tmp_path: Path) -> None:
    pair, other = self_signed(tmp_path), self_signed(tmp_path, "other")
    said = refusal(
        hosts,
        auth_proxy_tls="provided",
        auth_proxy_tls_certificate_file=str(pair.certificate),
        auth_proxy_tls_key_file=str(other.key),
    )
    assert f"{other.key} does not belong to the certificate {pair.certificate}" in said
