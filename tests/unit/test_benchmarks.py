"""The benchmarks still run: their programs, their tables, their picture. How fast anything is, is
not asked here."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from benchmarks import chart, deploy_models, features, report
from benchmarks.measure import cpu_seconds, memory, rest, stream
from benchmarks.stack import Stack, compile_native, running, wait_for_answer

from support.backend import free_port
from support.postgres import Postgres

REQUESTS = {"rps": 1234.5, "p50": 0.5, "p99": 123.4, "cpu_us": 70.0, "errors": 0}
STREAMS = {
    "chunks_s": 2500.0,
    "kept": 0.987,
    "cpu_s": 2.5,
    "ttft_p50": 1.0,
    "ttft_p99": 2.0,
    "relay_p50": 0.1,
    "relay_p99": 12.3,
    "rss_mib": 80.0,
    "errors": 0,
    "short": 0,
}
RESULTS = {
    "when": "2026-01-02",
    "machine": {"cpu": "<fast & new>", "cores": "2", "system": "Debian", "python": "3.11.2"},
    "median": {
        "direct": {"saturation": REQUESTS, "one": REQUESTS},
        "llamakit": {"saturation": REQUESTS, "one": {**REQUESTS, "p50": 0.75}, "s50": STREAMS},
        "nginx": {"saturation": {**REQUESTS, "rps": 4938.0}, "one": REQUESTS, "s50": STREAMS},
    },
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The backend alone: what is measured here needs no database."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to compile the backend with")
    programs, port = compile_native(tmp_path), free_port()
    with running([str(programs["backend"]), str(port)], tmp_path, "backend") as process:
        wait_for_answer(f"http://127.0.0.1:{port}/stats", process, tmp_path / "backend.log")
        backend = psutil.Process(process.pid)
        yield Stack(tmp_path, port, backend, Postgres(tmp_path, tmp_path, 0, ""))


def test_the_backend_speaks_as_llama_cpp_server_does(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.backend_port}/v1/chat/completions"
    whole = httpx.post(url, json={"max_tokens": 3}, trust_env=False).json()
    assert whole["choices"][0]["finish_reason"] == "stop"
    answer = httpx.post(url, json={"max_tokens": 3, "stream": True}, trust_env=False)
    *events, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1]["usage"] == whole["usage"]


WORK = """
import time
print("begun", flush=True)
while time.process_time() < 1:
    pass
time.sleep(60)
"""


def test_nobody_is_measured_while_another_still_works() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            ours = [psutil.Process(process.pid)]
            rest(ours)
            assert cpu_seconds(ours) > 0.9
        finally:
            process.kill()


def test_streams_are_read_and_left(stack: Stack) -> None:
    direct = stack.direct()
    found = stream(stack, direct, 3, 0.5, chunks=10, pace=5)
    assert found["chunks"] > 0
    assert found["finished"] > 0
    assert found["errors"] == found["short"] == 0
    left = stream(stack, direct, 3, 0.5, chunks=10, pace=5, leave_after=2)
    assert left["left"] > 0
    assert left["finished"] == 0
    assert stack.stats()["cancelled"] > 0
    assert memory(direct) == 0


def test_tables() -> None:
    text = report.text(RESULTS)
    assert "25.0%" in text, "the share of nginx's requests"
    assert "0.25" in text, "what is added to the backend's time"
    assert "99%" in text, "the share of the chunks that came in time"
    costs = {features.EVERYTHING: 80.0, "keys": 60.0, features.TLS: 120.0}
    assert "20.0 us,  25%" in features.text(costs)
    assert "40.0 us,  50%" in features.text(costs)


def test_picture() -> None:
    root = ET.fromstring(chart.svg(RESULTS))  # noqa: S314  it is our own
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("<fast & new>" in str(word) for word in words)
    assert "4,938" in words


def test_more_models() -> None:
    given = Path(deploy_models.MODELS).read_text()
    models = yaml.safe_load(deploy_models.more_models(given, 20))["models"]
    own = yaml.safe_load(given)["models"]
    assert len({model["id"] for model in models}) == len(own) + 20
    assert models[-1]["source"] == own[0]["source"]
