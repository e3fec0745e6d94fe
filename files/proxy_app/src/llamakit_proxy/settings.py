"""What the proxy is told from outside: config.env, the environment, and secrets in files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .client_address import Network, networks

CONFIG_VARIABLE = "LLAMAKIT_CONFIG"
MAX_TOKENS = 10**15
"""No limit of tokens is higher: what adds up stays far from what a bigint holds."""
# What stands in examples, ours among them, in place of a secret.
_EXAMPLES = frozenset(
    {
        "12345678",
        "123456789012",
        "admin",
        "another",
        "change-me",
        "change_me",
        "changeit",
        "changeme",
        "default",
        "dummy",
        "example",
        "llamakit",
        "one secret",
        "password",
        "placeholder",
        "postgres",
        "replace-me",
        "secret",
        "sk-1234",
        "test-token",
        "todo",
        "your_key",
        "your-api-key",
    }
)


class SettingsError(Exception):
    """A setting is missing or wrong. The text says what was found, expected, and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked. Times are seconds, sizes are bytes."""

    proxy_host: str
    proxy_port: int
    tls: bool
    """Speak https alone, with the secrets tls_certificate and tls_key."""
    trusted_proxies: tuple[Network, ...]
    """Reverse proxies whose X-Forwarded-For is believed."""
    rate_limit: int
    """Requests a user may make per window; 0 means no limit."""
    rate_window_seconds: int
    token_limit: int
    """Tokens a user may use per window; like the four below 0 for no limit."""
    token_window_seconds: int
    max_concurrent: int
    """Requests of a user that may be in the proxy at the same time."""
    day_budget: int
    """Tokens a user may use per UTC day."""
    month_budget: int
    max_body_bytes: int
    max_tokens: int
    """Cap and default of one completion's tokens, unless the route says otherwise."""
    queue_limit: int
    """Requests that may wait for one backend."""
    queue_timeout_seconds: float
    stall_timeout_seconds: float
    """A backend that sends nothing for this long has failed."""
    write_timeout_seconds: float
    """A client that takes nothing for this long is cut off."""
    drain_timeout_seconds: float
    """How long running requests may go on after the proxy was told to stop."""
    reload_drain_timeout_seconds: float
    """How long they may go on in the old worker while a new one serves already."""
    ready_timeout_seconds: float
    """How long a new worker may take until it can serve."""
    spool_dir: Path | None
    """Where log rows wait for Postgres; None keeps them in memory alone."""
    spool_max_bytes: int
    log_retention_days: int
    """How long rows of the request log are kept; 0 for ever. What init-db tells the database."""
    otlp_endpoint: str | None
    """The base of a collector's URLs, where spans are sent; None for no tracing."""
    routes_path: Path
    postgres_host: str
    """A host name, an address, or the directory of a Unix socket."""
    postgres_port: int
    postgres_db: str
    postgres_user: str
    postgres_admin_user: str
    postgres_sslmode: str
    secrets_dir: Path
    release: str | None
    """The name of the folder that the settings are in, links followed; None without a file."""

    def secret(self, name: str) -> str:
        """The secret called ``name``; SettingsError when its file can't be read, is empty or holds
        an example."""
        path = self.secret_file(name)
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"can't read the secret {path}: {reason}") from error
        if not value:
            raise SettingsError(f"the secret {path} is empty; expected one line of text")
        return no_example(value, f"the secret {path}")

    def secret_file(self, name: str) -> Path:
        """Where the secret called ``name`` is; SettingsError when there is none.

        Under systemd the credentials directory wins, because there the files of
        ``secrets_dir`` are not readable for the service.
        """
        if not name.isprintable() or not name or "/" in name or name.startswith("."):
            raise SettingsError(f"{name!r} is not the name of a secret; expected a plain file name")
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        places = [Path(credentials) / name] if credentials else []
        places.append(self.secrets_dir / name)
        for path in places:
            try:
                path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SettingsError(f"can't read the secret {path}: {error.strerror}") from error
            return path
        raise SettingsError(
            f"the secret {name} is not in {places[-1].parent}; "
            "`./console.sh start` (or the playbook site.yml) makes those of the kit; "
            "the key of a backend elsewhere is yours to write there"
        )


def no_example(value: str, name: str) -> str:
    """A secret's value; SettingsError, which names and does not show it, when everyone knows it."""
    if value.lower() in _EXAMPLES:
        raise SettingsError(
            f"{name} is a word that stands in examples; put a random one there "
            "(openssl rand -hex 24)"
        )
    return value


def read_env_file(path: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of a file as systemd and the shell read the simple ones."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"can't read the settings {path} (named by {CONFIG_VARIABLE}): {reason}; "
            "run `./console.sh start` to have them written"
        ) from error
    values: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.strip().isidentifier():
            raise SettingsError(f"{path}:{number}: expected NAME=value, found {line[:40]!r}")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[name.strip()] = value
    return values


class _Reader:
    """Typed look-ups in one mapping; every complaint names the variable."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, "") or default
        if value is None:
            raise SettingsError(
                f"{name} is not set; set it in the file named by {CONFIG_VARIABLE} or in the "
                "environment, or run `./console.sh start`, which writes that file"
            )
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise SettingsError(f"{name} is {value!r}; expected a whole number {low}..{high}")
        return number

    def networks(self, name: str) -> tuple[Network, ...]:
        value = self._values.get(name, "")
        try:
            return networks(value)
        except ValueError as error:
            raise SettingsError(
                f"{name} is {value!r}; expected addresses and networks of reverse proxies, "
                f"separated by commas, but {error}"
            ) from None

    def flag(self, name: str, default: str) -> bool:
        value = self.text(name, default)
        if value not in {"0", "1"}:
            raise SettingsError(f"{name} is {value!r}; expected 0 or 1")
        return value == "1"

    def seconds(self, name: str, default: float, low: float, high: float) -> float:
        value = self.text(name, str(default))
        try:
            number = float(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise SettingsError(f"{name} is {value!r}; expected seconds {low:g}..{high:g}")
        return number

    def base_url(self, name: str) -> str | None:
        value = self._values.get(name, "")
        if not value:
            return None
        try:
            parts = urlsplit(value)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            good = good and not (parts.query or parts.fragment or "@" in parts.netloc)
        except ValueError:
            good = False
        # What is wrong is not shown: it may hold a password.
        if not good:
            raise SettingsError(
                f"{name} is not http://HOST:PORT or https://HOST:PORT; a collector that wants "
                "credentials is reached through one on this machine that adds them"
            )
        return value.rstrip("/")


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the file named by LLAMAKIT_CONFIG, overridden by ``environ``.

    ``environ`` is the process environment unless given. Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    config = environ.get(CONFIG_VARIABLE)
    values = read_env_file(Path(config)) if config else {}
    values.update(environ)
    return from_values(values)


def from_values(values: Mapping[str, str]) -> Settings:
    """Settings from one mapping of variable names to texts."""
    read = _Reader(values)
    day = 86_400
    return Settings(
        proxy_host=read.text("LLAMA_PROXY_HOST", "127.0.0.1"),
        proxy_port=read.integer("LLAMA_PROXY_PORT", 8001, 0, 65_535),
        tls=read.flag("LLAMA_PROXY_TLS", "0"),
        trusted_proxies=read.networks("LLAMA_PROXY_TRUSTED_PROXIES"),
        rate_limit=read.integer("LLAMA_PROXY_RATE_LIMIT", 60, 0, 10_000_000),
        rate_window_seconds=read.integer("LLAMA_PROXY_RATE_WINDOW_SECONDS", 60, 1, 31 * day),
        token_limit=read.integer("LLAMA_PROXY_TOKEN_LIMIT", 0, 0, MAX_TOKENS),
        token_window_seconds=read.integer("LLAMA_PROXY_TOKEN_WINDOW_SECONDS", 60, 1, 31 * day),
        max_concurrent=read.integer("LLAMA_PROXY_MAX_CONCURRENT", 0, 0, 100_000),
        day_budget=read.integer("LLAMA_PROXY_DAY_BUDGET", 0, 0, MAX_TOKENS),
        month_budget=read.integer("LLAMA_PROXY_MONTH_BUDGET", 0, 0, MAX_TOKENS),
        max_body_bytes=read.integer("LLAMA_PROXY_MAX_BODY_BYTES", 2 << 20, 1024, 64 << 20),
        max_tokens=read.integer("LLAMA_PROXY_MAX_TOKENS", 2048, 1, 1_000_000),
        queue_limit=read.integer("LLAMA_PROXY_QUEUE_LIMIT", 100, 0, 100_000),
        queue_timeout_seconds=read.seconds("LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS", 300, 0.1, day),
        stall_timeout_seconds=read.seconds("LLAMA_PROXY_STALL_TIMEOUT_SECONDS", 120, 0.1, day),
        write_timeout_seconds=read.seconds("LLAMA_PROXY_WRITE_TIMEOUT_SECONDS", 30, 0.1, day),
        drain_timeout_seconds=read.seconds("LLAMA_PROXY_DRAIN_TIMEOUT_SECONDS", 20, 0, day),
        reload_drain_timeout_seconds=read.seconds(
            "LLAMA_PROXY_RELOAD_DRAIN_TIMEOUT_SECONDS", 300, 0, day
        ),
        ready_timeout_seconds=read.seconds("LLAMA_PROXY_READY_TIMEOUT_SECONDS", 30, 0.1, day),
        spool_dir=_folder(values.get("LLAMA_PROXY_SPOOL_DIR")),
        spool_max_bytes=read.integer("LLAMA_PROXY_SPOOL_MAX_BYTES", 256 << 20, 0, 1 << 40),
        log_retention_days=read.integer("LLAMA_PROXY_LOG_RETENTION_DAYS", 90, 0, 36_500),
        otlp_endpoint=read.base_url("LLAMA_PROXY_OTLP_ENDPOINT"),
        routes_path=Path(read.text("LLAMA_PROXY_ROUTES")),
        postgres_host=read.text("POSTGRES_AUTH_HOST", "127.0.0.1"),
        postgres_port=read.integer("POSTGRES_AUTH_PORT", 5433, 1, 65_535),
        postgres_db=read.text("POSTGRES_AUTH_DB", "llamakit"),
        postgres_user=read.text("POSTGRES_AUTH_USER", "llamakit_proxy"),
        postgres_admin_user=read.text("POSTGRES_AUTH_ADMIN_USER", "llamakit_admin"),
        postgres_sslmode=read.text("POSTGRES_AUTH_SSLMODE", "prefer"),
        secrets_dir=Path(read.text("LLAMAKIT_SECRETS_DIR")),
        release=_release(values.get(CONFIG_VARIABLE)),
    )


def _folder(text: str | None) -> Path | None:
    return Path(text) if text else None


def _release(config: str | None) -> str | None:
    # Before the last link is followed: a release is the folder, not the file in it.
    return Path(config).parent.resolve().name if config else None
