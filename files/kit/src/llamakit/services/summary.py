"""What a start tells at its end: where the endpoint is and how to use it."""

from __future__ import annotations

import argparse
import getpass
import json
from pathlib import Path
from typing import Any

from llamakit.arguments import Commands

SUMMARY = """\
llamakit is up: {models}{warning}

  The endpoint   {url}/v1
  A first user   ./console.sh user create --username alice
  Then           export LLAMAKIT_KEY=the key it shows
                 curl {trust}{url}/v1/models -H "Authorization: Bearer $LLAMAKIT_KEY"
                 curl {trust}{url}/v1/{path} \\
                   -H "Authorization: Bearer $LLAMAKIT_KEY" -H "Content-Type: application/json" \\
                   -d '{{"model": "{name}", {question}}}'

  What runs      ./console.sh status"""

# Path and body of the first question, by the kind of model there is.
QUESTIONS = {
    "chat": ("chat/completions", '"messages": [{"role": "user", "content": "Hello!"}]'),
    "embedding": ("embeddings", '"input": "Hello!"'),
}

SMOKE_WARNING = """

  This is the smoke model: it recites a fixed text and answers in the name of {name}.
  For a real one, copy a GGUF file into models/, or run ./console.sh add when the hub can be
  reached; then ./console.sh start."""

LINGER = Path("/var/lib/systemd/linger")
LINGER_HINT = """
  systemd ends your services when you log out, and starts none at boot. To change that, as root:
                 loginctl enable-linger {user}"""


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``summary`` to the kit's command line."""
    parser = subcommands.add_parser("summary", help="tell where the endpoint is and how to use it")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Always 0; the start has succeeded."""
    state: dict[str, Any] = json.loads((options.state_dir / "state.json").read_text())
    routes = json.loads((options.state_dir / "proxy_routes.json").read_text())["models"]
    print(summarize(state["proxy_url"], routes, state.get("tls_certificate")))
    user = getpass.getuser()
    if state["manager"] == "systemd-user" and not (LINGER / user).exists():
        print(LINGER_HINT.format(user=user))
    return 0


def summarize(url: str, routes: list[dict[str, Any]], certificate: str | None = None) -> str:
    """The text for a proxy at ``url`` with these models (as in proxy_routes.json), and with the
    file of the certificate that clients are to trust."""
    first = next((route for route in routes if route["kind"] == "chat"), routes[0])
    name = first["aliases"][-1] if first["aliases"] else first["id"]
    warning = SMOKE_WARNING.format(name=name) if first["owned_by"] == "llamakit-smoke" else ""
    models = ", ".join(route["id"] for route in routes)
    path, question = QUESTIONS[first["kind"]]
    trust = f"--cacert {certificate} " if certificate else ""
    return SUMMARY.format(
        models=models,
        warning=warning,
        url=url,
        trust=trust,
        name=name,
        path=path,
        question=question,
    )
