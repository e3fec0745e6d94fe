"""What the parts of one process do by themselves, without a database."""

import asyncio
import json
from pathlib import Path

import pytest

from llamakit_proxy import service as service_module
from llamakit_proxy.routes import RouteFile
from llamakit_proxy.service import Service
from llamakit_proxy.settings import from_values
from support.log_rows import until
from support.proxy import model_entry


def write(routes: Path, *names: str) -> None:
    entries = [model_entry(name, "http://127.0.0.1:1") for name in names]
    routes.with_suffix(".new").write_text(json.dumps({"models": entries}))
    routes.with_suffix(".new").replace(routes)


async def test_a_mistake_of_ours_does_not_end_the_following_of_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for secret in ("llama_api_key", "postgres_proxy_password"):
        (tmp_path / secret).write_text("a-secret-of-this-test")
    routes = tmp_path / "routes.json"
    write(routes, "first")
    service = Service(
        from_values({"LLAMA_PROXY_ROUTES": str(routes), "LLAMAKIT_SECRETS_DIR": str(tmp_path)})
    )
    monkeypatch.setattr(service_module, "POLL_SECONDS", 0.01)
    following = asyncio.create_task(service._follow_routes())
    with monkeypatch.context() as broken:
        broken.setattr(RouteFile, "_load", lambda _: 1 / 0)
        write(routes, "second")
        await until(lambda: "following the routes failed" in caplog.text, 5)
    assert service.table.find("first")
    write(routes, "third")
    await until(lambda: service.table.routes[0].id == "third", 5)
    following.cancel()
    service.backends.close()
