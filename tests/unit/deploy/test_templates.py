"""The files that the roles write are what the programs that read them expect."""

import configparser
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from llamakit_proxy.settings import from_values
from support.play import CHECKOUT, run_tasks

NASTY = 'x y "z" 100% $HOME'
SERVICE: dict[str, Any] = {
    "name": "llama-odd.name-1",
    "kind": "model",
    "model": "odd.name-1",
    "description": "A model",
    "command": ["/opt/a b/python", "-m", "x", NASTY],
    "environment": {"PLAIN": "1"},
    "hash": "abcdef",
    "host": "127.0.0.1",
    "port": 8010,
    "probe": {"type": "http", "path": "/openapi.json"},
}
VARIABLES: dict[str, Any] = {
    "__postgres_environment": "/env/postgresql",
    "__auth_proxy_config": "/state/config.env",
    "__auth_proxy_routes": "/state/proxy_routes.json",
    "auth_proxy_environment": "/env/proxy",
    "postgres_source": "embedded",
    "postgres_as_user": ["setpriv"],
    "service_environment_path": "/env/supervisor",
    "service_manager": "supervisord",
    "service_state_dir": "/state",
    "service_logs_dir": "/logs",
    "auth_proxy_secrets_dir": "/state/secrets",
    "item": SERVICE,
}
TEMPLATES = {
    "auth_proxy": ["config.env.j2", "llamakit-users.j2", "proxy_routes.json.j2"],
    "postgres": ["llamakit.conf.j2", "pg_hba.conf.j2", "pg_ident.conf.j2", "start-postgres.sh.j2"],
    "service": ["program.conf.j2", "service.json.j2", "supervisord.conf.j2", "watchdog.py.j2"],
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each template's text with the roles' defaults, by its name."""
    folder = tmp_path_factory.mktemp("templates")
    roles = CHECKOUT / "roles"
    lookups = ", ".join(
        f"'{name}': lookup('ansible.builtin.template', '{roles / role / 'templates' / name}')"
        for role, names in TEMPLATES.items()
        for name in names
    )
    task = {"name": "Render", "ansible.builtin.set_fact": {"result": f"{{{{ {{ {lookups} }} }}}}"}}
    files = [roles / role / part for role in TEMPLATES for part in ("vars", "defaults")]
    play = run_tasks(folder, [task], vars_files=[f / "main.yml" for f in files], **VARIABLES)
    assert play.code == 0, play.output
    found: dict[str, str] = play.result
    return found


def parse_ini(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(" ;", "\t;"), strict=True)
    parser.read_string(text)
    return parser


def test_config_env_is_what_the_proxy_reads(rendered: dict[str, str]) -> None:
    lines = [line for line in rendered["config.env.j2"].splitlines() if line[:1] not in ("", "#")]
    values = dict(line.split("=", 1) for line in lines)
    settings = from_values(values)
    assert (settings.proxy_host, settings.proxy_port) == ("127.0.0.1", 8001)
    assert str(settings.routes_path) == "/state/proxy_routes.json"
    assert str(settings.secrets_dir) == "/state/secrets"
    assert not [name for name in values if "PASSWORD" in name or name.endswith("_KEY")]
    assert {"LLAMA_SERVER_HOST", "LLAMA_SERVER_PORT", "LLAMA_PROXY_ENABLED"} <= set(values)


def test_a_programs_command_survives_quoting(rendered: dict[str, str]) -> None:
    program = parse_ini(rendered["program.conf.j2"])["program:llama-odd.name-1"]
    # supervisord expands %(name)s first, as Python's % does, and splits as a shell does.
    words = shlex.split(program["command"] % {})
    assert words[-4:] == SERVICE["command"]
    assert words[0] == "setpriv"
    assert program["autorestart"] == "true"
    assert program["stdout_logfile"] == "/logs/llama-odd.name-1.log"
    assert 'LLAMAKIT_HASH="abcdef"' in program["environment"]


def test_the_supervisor_listens_on_a_private_socket_alone(rendered: dict[str, str]) -> None:
    config = parse_ini(rendered["supervisord.conf.j2"])
    assert config["unix_http_server"]["chmod"] == "0700"
    assert "inet_http_server" not in config
    assert config["include"]["files"] == "/state/supervisor.d/*.conf"


def test_the_services_definition_is_json(rendered: dict[str, str]) -> None:
    service = json.loads(rendered["service.json.j2"])
    assert service["port"] == 8010
    assert service["log"] == "/logs/llama-odd.name-1.log"


def test_the_supervisor_keeps_its_pid_where_it_may_write(rendered: dict[str, str]) -> None:
    config = configparser.RawConfigParser()
    config.read_string(rendered["supervisord.conf.j2"])
    # The folder of its socket is made for its user; the one above belongs to root, for root.
    folder = Path(config["unix_http_server"]["file"]).parent
    assert Path(config["supervisord"]["pidfile"]).parent == folder


def test_the_watchdog_is_python(rendered: dict[str, str]) -> None:
    compile(rendered["watchdog.py.j2"], "watchdog.py", "exec")


def test_postgres_trusts_nobody_and_stays_here(rendered: dict[str, str]) -> None:
    lines = [line for line in rendered["pg_hba.conf.j2"].splitlines() if not line.startswith("#")]
    (through_the_socket,) = (line for line in lines if line.startswith("local"))
    assert through_the_socket == "local all postgres peer map=llamakit"
    by_tcp = [line.split() for line in lines if line.startswith("host")]
    assert {words[-1] for words in by_tcp} == {"scram-sha-256"}
    assert {words[3] for words in by_tcp} == {"127.0.0.1/32", "::1/128"}
    config = rendered["llamakit.conf.j2"]
    assert "listen_addresses = '127.0.0.1'" in config
    assert "unix_socket_directories = '.'" in config


def test_the_services_user_is_no_superuser_where_root_deploys(rendered: dict[str, str]) -> None:
    (line,) = (line for line in rendered["pg_ident.conf.j2"].splitlines() if line[:1] != "#")
    assert line == 'llamakit "root" postgres'


def test_no_template_is_forgotten_here() -> None:
    written = {path.name for path in (CHECKOUT / "roles").rglob("templates/*.j2")}
    needs_a_plan = {"model.json.j2", "mode.json.j2", "services.json.j2"}
    # A cluster of the distribution's; a real one reads them in molecule.
    on_a_host = {
        "createcluster.conf.j2", "database.json.j2", "pg_hba_cluster.conf.j2",
    }  # fmt: skip
    in_test_units = {
        "llamakit.target.j2", "rotate-logs.sh.j2", "unit.service.j2", "unit.socket.j2",
        "unit.timer.j2",
    }  # fmt: skip
    rendered_here = {name for names in TEMPLATES.values() for name in names}
    assert written == rendered_here | needs_a_plan | in_test_units | on_a_host
    assert Path(CHECKOUT / "playbooks" / "templates" / "secrets.json.j2").exists()
