"""Settings: where they come from, and what is said when one is wrong."""

import re
from pathlib import Path

import pytest

from llamakit_proxy.database import Role, password
from llamakit_proxy.settings import Settings, SettingsError, from_values, load, no_example
from unit.docs import pages

NEEDED = {"LLAMA_PROXY_ROUTES": "/r.json", "LLAMAKIT_SECRETS_DIR": "/s"}


def test_defaults() -> None:
    settings = from_values(NEEDED)
    assert (settings.proxy_host, settings.proxy_port) == ("127.0.0.1", 8001)
    assert (settings.rate_limit, settings.rate_window_seconds) == (60, 60)
    assert (settings.token_limit, settings.token_window_seconds) == (0, 60)
    assert (settings.max_concurrent, settings.day_budget, settings.month_budget) == (0, 0, 0)
    assert (settings.drain_timeout_seconds, settings.reload_drain_timeout_seconds) == (20, 300)
    assert (settings.tls, settings.release) == (False, None)
    assert (settings.spool_dir, settings.log_retention_days) == (None, 90)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "config.env"
    config.write_text(
        "# written by a playbook\n\nLLAMA_PROXY_PORT=9001\nLLAMA_PROXY_RATE_LIMIT='5'\n"
        'LLAMA_PROXY_ROUTES="/a b/r.json"\nLLAMAKIT_SECRETS_DIR=/s\nOTHER=1=2\n'
    )
    settings = load({"LLAMAKIT_CONFIG": str(config), "LLAMA_PROXY_PORT": "9002"})
    assert settings.proxy_port == 9002
    assert settings.rate_limit == 5
    assert settings.routes_path == Path("/a b/r.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLAMA_PROXY_PORT", "http"),
        ("LLAMA_PROXY_PORT", "70000"),
        ("LLAMA_PROXY_RATE_LIMIT", "-1"),
        ("LLAMA_PROXY_RATE_WINDOW_SECONDS", "0"),
        ("LLAMA_PROXY_TOKEN_WINDOW_SECONDS", "0"),
        ("LLAMA_PROXY_MONTH_BUDGET", "1e6"),
        ("LLAMA_PROXY_MAX_BODY_BYTES", "1e6"),
        ("LLAMA_PROXY_STALL_TIMEOUT_SECONDS", "nan"),
        ("LLAMA_PROXY_SPOOL_MAX_BYTES", "-1"),
        ("LLAMA_PROXY_LOG_RETENTION_DAYS", "90d"),
        ("LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS", "inf"),
        ("LLAMA_PROXY_TRUSTED_PROXIES", "nginx"),
        ("LLAMA_PROXY_TRUSTED_PROXIES", "0.0.0.0/0"),
    ],
)
def test_wrong_values_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{value}'; expected"):
        from_values({**NEEDED, name: value})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", None),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("https://[::1]:4318/", "https://[::1]:4318"),
        ("http://collector/otlp/", "http://collector/otlp"),
    ],
)
def test_a_collector(value: str, found: str | None) -> None:
    assert from_values({**NEEDED, "LLAMA_PROXY_OTLP_ENDPOINT": value}).otlp_endpoint == found


@pytest.mark.parametrize(
    "value",
    ["127.0.0.1:4318", "grpc://h:1", "http://", "http://h:x", "http://h:99999", "http://[h",
     "http://me:canary@h:1", "http://h:1/?key=canary", "http://h:1/#canary"],
)  # fmt: skip
def test_what_is_no_collector_is_not_repeated(value: str) -> None:
    with pytest.raises(SettingsError, match=r"LLAMA_PROXY_OTLP_ENDPOINT is not http://") as caught:
        from_values({**NEEDED, "LLAMA_PROXY_OTLP_ENDPOINT": value})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", list(NEEDED))
def test_missing_values_are_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not set"):
        from_values({**NEEDED, name: ""})


def test_a_line_that_is_no_setting(tmp_path: Path) -> None:
    config = tmp_path / "config.env"
    config.write_text("A=1\nexport B=2\n")
    with pytest.raises(SettingsError, match=r"config\.env:2"):
        load({"LLAMAKIT_CONFIG": str(config)})
    with pytest.raises(SettingsError, match=r"console\.sh start"):
        load({"LLAMAKIT_CONFIG": str(tmp_path / "missing.env")})


@pytest.mark.parametrize("value", ["yes", "true", "2"])
def test_tls_is_on_or_off(value: str) -> None:
    assert from_values({**NEEDED, "LLAMA_PROXY_TLS": "1"}).tls
    with pytest.raises(SettingsError, match=f"LLAMA_PROXY_TLS is '{value}'; expected 0 or 1"):
        from_values({**NEEDED, "LLAMA_PROXY_TLS": value})


def test_the_release_is_the_folder_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "releases" / "4f1d").mkdir(parents=True)
    (tmp_path / "releases" / "4f1d" / "proxy.env").touch()
    (tmp_path / "current").symlink_to("releases/4f1d")
    settings = load({**NEEDED, "LLAMAKIT_CONFIG": str(tmp_path / "current" / "proxy.env")})
    assert settings.release == "4f1d"


def in_folder(path: Path) -> Settings:
    return from_values({**NEEDED, "LLAMAKIT_SECRETS_DIR": str(path)})


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_folder(tmp_path)
    (tmp_path / "one").write_text("s3cret\n")
    (tmp_path / "empty").write_text("\n")
    assert settings.secret("one") == "s3cret"
    for name in ("empty", "missing"):
        with pytest.raises(SettingsError):
            settings.secret(name)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "one").write_text("from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert settings.secret("one") == "from systemd"


@pytest.mark.parametrize("systemd", [False, True])
@pytest.mark.parametrize("name", ["../outside", "below/one", "{outside}", ".hidden", "..", "."])
def test_a_secret_is_a_file_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, systemd: bool
) -> None:
    """Names come from config/proxy_routes.yaml, and what they lead to is sent to a backend."""
    folder = tmp_path / "secrets"
    (folder / "below").mkdir(parents=True)
    for path in (tmp_path / "outside", folder / "below" / "one", folder / ".hidden"):
        path.write_text("s3cret")
    if systemd:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    name = name.replace("{outside}", str(tmp_path / "outside"))
    with pytest.raises(SettingsError, match="is not the name of a secret"):
        in_folder(folder).secret(name)


@pytest.mark.parametrize("value", ["changeme", "ChangeMe", "password", "another", "test-token"])
def test_secrets_from_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """one-api's 123456 and Portkey's test-token were let in by many; ours stand in the docs."""
    settings = in_folder(tmp_path)
    (tmp_path / "postgres_proxy_password").write_text(f"{value}\n")
    monkeypatch.delenv("POSTGRES_AUTH_PASSWORD", raising=False)
    with pytest.raises(SettingsError, match=r"password is a word .*openssl") as told:
        password(settings, Role.PROXY)
    assert value not in str(told.value).partition("postgres_proxy_password")[2]
    monkeypatch.setenv("POSTGRES_AUTH_PASSWORD", value)
    with pytest.raises(SettingsError, match=r"^POSTGRES_AUTH_PASSWORD is a word"):
        password(settings, Role.PROXY)
    monkeypatch.setenv("POSTGRES_AUTH_PASSWORD", f"{value}-and-more")
    assert password(settings, Role.PROXY) == f"{value}-and-more"


def test_the_secrets_of_our_own_documents_are_examples() -> None:
    text = (pages.ROOT / "docs" / "configuration.md").read_text()
    shown = re.findall(r"PASSWORD '([^']+)'", text)
    assert len(shown) == 2
    for value in shown:
        with pytest.raises(SettingsError):
            no_example(value, "x")
