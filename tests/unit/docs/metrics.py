"""The table of docs/monitoring.md, made of what the proxy shows at /metrics.

``PYTHONPATH=tests python -m unit.docs.metrics`` writes it anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from llamakit_proxy.app import Application
from llamakit_proxy.exchange import CONNECTION, Exchange
from llamakit_proxy.service import Service
from llamakit_proxy.settings import from_values
from support.proxy import model_entry
from unit.docs import pages

PAGE = "docs/monitoring.md"
_TABLE = re.compile(r"(?<=<!-- table: metrics -->\n).*?(?=\n\n|\n\Z)", re.DOTALL)
_HEAD = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|"


@dataclass
class Metric:
    """What /metrics says of one."""

    name: str
    """As queries call a counter or gauge; of a histogram what they add _bucket to."""
    kind: str
    text: str
    labels: set[str] = field(default_factory=set)


def exposed() -> dict[str, Metric]:
    """Every metric of a proxy that has answered, by name. It reads no database and no backend."""
    found = {}
    for family in text_string_to_metric_families(asyncio.run(_page())):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = found[name] = Metric(name, family.type, family.documentation)
        for sample in family.samples:
            metric.labels |= sample.labels.keys() - {"le"}
    return found


async def _page() -> str:
    """/metrics of a proxy that has answered one request with all there is to measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for secret in ("llama_api_key", "postgres_proxy_password"):
            (folder / secret).write_text("a-secret-of-this-page")
        routes = folder / "routes.json"
        # The port is open to nobody.
        routes.write_text(json.dumps({"models": [model_entry("m", "http://127.0.0.1:1")]}))
        service = Service(
            from_values({"LLAMA_PROXY_ROUTES": str(routes), "LLAMAKIT_SECRETS_DIR": name})
        )
    scope = {"type": "http", "method": "POST", "headers": [], "client": ("127.0.0.1", 1)}
    answered = {**scope, "extensions": {CONNECTION: None}}
    path = "/v1/chat/completions"
    exchange = Exchange(answered, _receive, _nowhere, path, 1, client="127.0.0.1")
    with exchange.asking(service.table.routes[0].backends[0]):
        exchange.ttft_seconds = exchange.queue_seconds = exchange.overhead_seconds = 0.001
    exchange.model, exchange.status = "m", 200
    exchange.prompt_tokens = exchange.completion_tokens = 2
    exchange.failovers = 1
    service.metrics.observe(exchange, 0.01)
    exchange.close()
    said = bytearray()

    async def send(message: MutableMapping[str, Any]) -> None:
        said.extend(message.get("body", b""))

    asked = {**scope, "method": "GET", "path": "/metrics", "query_string": b"", "root_path": ""}
    await Application(service)(asked, _receive, send)
    service.backends.close()
    return said.decode()


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(_: MutableMapping[str, Any]) -> None:
    return


def table() -> str:
    """The table as it should be."""
    rows = []
    for metric in exposed().values():
        labels = ", ".join(f"`{label}`" for label in sorted(metric.labels))
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join([_HEAD, *rows])


def written(page: str) -> str:
    """The page with its table as it should be."""
    made = table()
    return _TABLE.sub(lambda _: made, page)


if __name__ == "__main__":
    (pages.ROOT / PAGE).write_text(written(pages.page(PAGE)), encoding="utf-8")
