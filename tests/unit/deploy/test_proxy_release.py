"""What a release of the proxy is told, and what its service is told in its place."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from llamakit_proxy.settings import from_values, load
from support.play import CHECKOUT, run_tasks

ROLE = CHECKOUT / "roles" / "auth_proxy"
PLAIN: dict[str, Any] = {"auth_proxy_tls": "off", "auth_proxy_host": "127.0.0.1"}
TLS: dict[str, Any] = {
    "auth_proxy_tls": "self-signed", "auth_proxy_host": "::", "auth_proxy_port": 8443,
}  # fmt: skip


def told(folder: Path, variables: dict[str, Any]) -> dict[str, Any]:
    """The release's settings, the service, and the users' command."""
    (folder / "templates").symlink_to(ROLE / "templates")
    parts = {
        "settings": "__auth_proxy_own_settings",
        "service": "__auth_proxy_service",
        "users": "lookup('ansible.builtin.template', 'llamakit-users.j2')",
    }
    asked = ", ".join(f"'{name}': {text}" for name, text in parts.items())
    task = {"name": "Ask", "ansible.builtin.set_fact": {"result": f"{{{{ {{ {asked} }} }}}}"}}
    play = run_tasks(
        folder,
        [task],
        vars_files=[ROLE / part / "main.yml" for part in ("defaults", "vars")],
        auth_proxy_release="r1",
        __auth_proxy_certificate={"stat": {}},
        **variables,
    )
    assert play.code == 0, play.output
    found: dict[str, Any] = play.result
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told(tmp_path_factory.mktemp("tls"), TLS)


def test_no_release_says_where_it_listens_and_whether_with_tls(
    plain: dict[str, Any], tls: dict[str, Any]
) -> None:
    assert plain["settings"] == tls["settings"]
    assert "LLAMA_PROXY_RATE_LIMIT=60\n" in plain["settings"]
    for name in ("LLAMA_SERVER_", "LLAMA_PROXY_HOST", "LLAMA_PROXY_PORT", "LLAMA_PROXY_TLS"):
        assert name not in plain["settings"]


def test_its_service_does_whatever_the_release_says(
    plain: dict[str, Any], tls: dict[str, Any], tmp_path: Path
) -> None:
    assert plain["service"]["hash"] != tls["service"]["hash"]
    # As a release that was deployed before TLS was turned on.
    old = tmp_path / "proxy.env"
    old.write_text(
        plain["settings"] + "LLAMA_PROXY_HOST=127.0.0.1\nLLAMA_PROXY_PORT=8001\nLLAMA_PROXY_TLS=0\n"
    )
    environment = {name: str(value) for name, value in tls["service"]["environment"].items()}
    settings = load({**environment, "LLAMAKIT_CONFIG": str(old)})
    assert (settings.tls, settings.proxy_host, settings.proxy_port) == (True, "::", 8443)


def test_the_users_command_knows_it_too(tls: dict[str, Any]) -> None:
    script = tls["users"].rpartition("exec ")[0].partition("fi\n")[2]
    shown = subprocess.run(
        ["sh", "-euc", f"{script}\nenv"], capture_output=True, text=True, check=True, timeout=10
    )
    values = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert values["LLAMAKIT_CONFIG"].endswith("/current/proxy.env")
    given = {"LLAMA_PROXY_ROUTES": "/r.json", "LLAMAKIT_SECRETS_DIR": "/s"}
    assert from_values({**values, **given}).tls
