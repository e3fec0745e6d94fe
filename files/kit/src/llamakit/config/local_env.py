"""Checks config/local.env, which console.sh reads; no value is shown, for it may be a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llamakit.config.problems import Problem, did_you_mean

LOCAL_ENV = Path("config/local.env")
SETTINGS = (
    "LLAMA_PROXY_HOST",
    "LLAMA_PROXY_PORT",
    "LLAMA_PROXY_ENABLED",
    "LLAMA_PROXY_TRUSTED_PROXIES",
    "LLAMA_PROXY_RATE_LIMIT",
    "LLAMA_PROXY_RATE_WINDOW_SECONDS",
    "LLAMA_PROXY_TOKEN_LIMIT",
    "LLAMA_PROXY_TOKEN_WINDOW_SECONDS",
    "LLAMA_PROXY_MAX_CONCURRENT",
    "LLAMA_PROXY_DAY_BUDGET",
    "LLAMA_PROXY_MONTH_BUDGET",
    "LLAMA_PROXY_MAX_BODY_BYTES",
    "LLAMA_PROXY_MAX_TOKENS",
    "LLAMA_PROXY_QUEUE_LIMIT",
    "LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS",
    "LLAMA_PROXY_STALL_TIMEOUT_SECONDS",
    "LLAMA_PROXY_WRITE_TIMEOUT_SECONDS",
    "LLAMA_PROXY_DRAIN_TIMEOUT_SECONDS",
    "LLAMA_PROXY_RELOAD_DRAIN_TIMEOUT_SECONDS",
    "LLAMA_PROXY_READY_TIMEOUT_SECONDS",
    "LLAMA_PROXY_LOG_RETENTION_DAYS",
    "LLAMA_PROXY_SPOOL_MAX_BYTES",
    "LLAMA_PROXY_OTLP_ENDPOINT",
    "LLAMA_PROXY_TLS",
    "LLAMA_PROXY_TLS_NAMES",
    "LLAMA_SERVER_PORT",
    "POSTGRES_AUTH_HOST",
    "POSTGRES_AUTH_PORT",
    "POSTGRES_AUTH_DB",
    "POSTGRES_AUTH_USER",
    "POSTGRES_AUTH_PASSWORD",
    "POSTGRES_AUTH_ADMIN_USER",
    "POSTGRES_AUTH_ADMIN_PASSWORD",
    "POSTGRES_AUTH_SSLMODE",
    "LLAMAKIT_WHEELHOUSE",
    "LLAMAKIT_ACCELERATOR",
    "LLAMAKIT_SERVICE_MANAGER",
    "HF_ENDPOINT",
    "HF_TOKEN",
)
"""The table of docs/configuration.md. Other programs read their own variables from the file too."""

_OWN = ("LLAMA_", "LLAMAKIT_", "POSTGRES_")
_OF_OTHERS = re.compile(
    r"(HTTPS?|ALL|NO)_PROXY|(PIP|SSL|ANSIBLE|HF_HUB|CMAKE|CUDA)_\w+|(REQUESTS|CURL)_CA_BUNDLE"
)
_ALMOST = 0.75  # HF_TOKENS is HF_TOKEN, PROXY_PORT is LLAMA_PROXY_PORT; TMPDIR is itself


def local_env_problems(file: Path) -> list[Problem]:
    """Every line that would have no effect; none when there is no such file."""
    try:
        lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    return list(_problems(file, lines))


def _problems(file: Path, lines: list[str]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    if any(line.endswith("\r") for line in lines):
        yield Problem(
            str(file),
            "lines that end as on Windows (CR LF), whose CR would be part of the value",
            "lines that end with LF",
            f"sed -i 's/\\r$//' {file}",
        )
        return
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        text = line.strip()
        name, equals, _ = text.partition("=")
        if not text or text.startswith("#"):
            continue
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            yield Problem(
                where,
                _form(name) if equals else "a line without an =",
                "NAME=value with the name in capitals, or a comment that begins with #",
                "correct the line, or remove it",
            )
        elif name in first:
            yield Problem(
                where,
                f"{name} a second time (first: {first[name]})",
                "every name once; the first one would hold",
                "remove one of them",
            )
        elif suggestion := _unknown(name):
            yield Problem(
                where,
                f"an unknown name {name!r}",
                "a setting of docs/configuration.md",
                suggestion,
            )
        first.setdefault(name, where)


def _form(before: str) -> str:
    """What is wrong with what stands before the =; it may be the start of a secret."""
    if before.startswith("export "):
        return "export before the name"
    if before != before.rstrip():
        return "a space before the ="
    return "no name in capitals before the ="


def _unknown(name: str) -> str:
    """What to do about a name that can have no effect; nothing where it may have one."""
    if name in SETTINGS or _OF_OTHERS.fullmatch(name):
        return ""
    if name.startswith(_OWN):
        return did_you_mean(name, SETTINGS) or "correct the name, or remove the line"
    return did_you_mean(name, SETTINGS, _ALMOST)
