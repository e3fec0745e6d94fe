"""The master and its worker: who starts, who dies, who holds the socket."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llamakit_proxy.master import PAUSES_SECONDS
from support.backend import Backend, free_port
from support.postgres import Postgres
from support.processes import wait_for
from support.proxy import Proxy, model_entry, new_proxy
from support.releases import Releases


@pytest.fixture
def activated(postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Proxy]:
    """A proxy whose socket another process holds. It does not run yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        models = [model_entry("script", chat_backend.url)]
        proxy = new_proxy(postgres, tmp_path, models, LLAMA_PROXY_PORT=port)
        proxy.listener = listener
        try:
            yield proxy
        finally:
            proxy.stop()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


def test_the_master_imports_next_to_nothing(own: Proxy) -> None:
    assert own.process is not None
    master = psutil.Process(own.process.pid)
    (worker,) = own.workers()
    assert master.memory_info().rss < 20 << 20
    assert master.num_threads() == 1
    loaded = {Path(line.path).name for line in master.memory_maps()}
    assert not [
        name for name in loaded if name.startswith(("_ssl", "loop.", "_psycopg", "_asyncio"))
    ]
    # Nobody else holds the socket, or the channel between the two.
    assert "LISTEN_FDS" not in worker.environ()


def test_a_killed_worker_is_back_and_is_not_tried_in_a_hurry(own: Proxy) -> None:
    for pause in PAUSES_SECONDS[:3]:
        (worker,) = own.workers()
        worker.kill()
        own.wait_for_log(f"worker {worker.pid} was killed by SIGKILL unasked")
        begin = time.monotonic()
        wait_for(lambda: own.page("/healthz").status_code == 200, 30, "it answers again")
        assert time.monotonic() - begin >= pause * 0.8


def test_a_worker_that_can_not_come_back_is_tried_again(own: Proxy) -> None:
    own.settings.routes_path.rename(own.folder / "aside")
    (worker,) = own.workers()
    worker.kill()
    own.wait_for_log("the worker ended with exit code 2 before it could serve")
    assert own.process is not None
    assert own.process.poll() is None
    (own.folder / "aside").rename(own.settings.routes_path)
    # What is put right needs no patience.
    own.process.send_signal(signal.SIGHUP)
    wait_for(lambda: own.page("/healthz").status_code == 200, 30, "it answers again")


def test_a_log_that_takes_no_more_ends_nothing(own: Proxy) -> None:
    """/dev/full refuses each line, as a full disk does."""
    own.stop()
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123  it is no file
        own.process = subprocess.Popen(
            [sys.executable, "-m", "llamakit_proxy", "serve"],
            stdout=full,
            stderr=full,
            env=own.environment,
        )

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return own.page("/healthz").status_code == 200
        return False

    wait_for(answers, 30, "it answers")
    (before,) = own.workers()
    own.process.send_signal(signal.SIGHUP)
    wait_for(lambda: gone([before]), 30, "another worker serves")
    assert answers()
    assert own.process.poll() is None
    own.stop()
    own.start()


def test_no_worker_outlives_a_killed_master(own: Proxy) -> None:
    workers = own.workers()
    own.stop(signal.SIGKILL)
    wait_for(lambda: gone(workers), 5, "the worker ends")
    own.start()


def test_a_worker_whose_master_is_gone_ends_at_once(own: Proxy) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        descriptors = (theirs.fileno(), listener.fileno())
        arguments = ["--channel", str(descriptors[0]), "--listen", str(descriptors[1])]
        run = subprocess.run(
            # Process 1 is nobody's master.
            [sys.executable, "-m", "llamakit_proxy", "worker", "--master", "1", *arguments],
            env=own.environment,
            pass_fds=descriptors,
            timeout=20,
            check=False,
        )
    assert run.returncode == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 128 + signal.SIGINT)]
)
def test_signals_that_end_it(own: Proxy, number: signal.Signals, code: int) -> None:
    workers = own.workers()
    assert own.stop(number) == code
    assert gone(workers)


def test_a_hang_up_for_the_whole_group_is_one_reload(own: Proxy) -> None:
    """`systemctl kill -s HUP` and a terminal that closes reach the worker, too."""
    assert own.process is not None
    (worker,) = own.workers()
    for pid in (worker.pid, own.process.pid):
        os.kill(pid, signal.SIGHUP)
    own.wait_for_log(f"worker {worker.pid} finishes what it has begun")
    assert own.page("/healthz").status_code == 200


def test_a_worker_that_crashes_at_the_first_start(own: Proxy) -> None:
    own.stop()
    releases = Releases(own)
    releases.add_broken("crash", "raise ImportError('canary_part')")
    releases.use("crash")
    # The master itself comes from a release that works.
    own.environment["PYTHONPATH"] = str(Path(__file__).parents[3] / "files/proxy_app/src")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from llamakit_proxy import cli, master;"
            f"os.environ['PYTHONPATH'] = '{releases.current}/src'; sys.exit(cli.main(['serve']))",
        ],
        env=own.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert "canary_part" in run.stderr
    assert "ended with exit code 1 before it could serve" in run.stderr


def test_the_socket_of_a_socket_unit_is_used(activated: Proxy) -> None:
    activated.start()
    (worker,) = activated.workers()
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(worker.environ())
    assert activated.page("/readyz").json()["models"] == {"script": "up"}
    assert activated.stop() == 0
    # It is not closed for those who come meanwhile.
    socket.create_connection(("127.0.0.1", activated.port)).close()


def test_variables_of_another_process_are_not_believed(own: Proxy) -> None:
    own.stop()
    own.environment.update(LISTEN_PID="1", LISTEN_FDS="1")
    own.start()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket_unit_that_passes_the_wrong_socket(activated: Proxy, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as wrong:
        activated.listener = wrong
        activated.launch()
        assert activated.process is not None
        assert activated.process.wait(20) == 2
    assert "expected ListenStream= and Accept=no" in activated.log.read_text()


def test_another_port_than_the_settings_say_is_told(activated: Proxy) -> None:
    activated.environment["LLAMA_PROXY_PORT"] = str(free_port())
    activated.start()
    assert "restart it, or its socket unit, to change the port" in activated.log.read_text()


async def test_a_restart_behind_a_socket_unit_refuses_nobody(activated: Proxy) -> None:
    await asyncio.to_thread(activated.start)
    key = activated.new_key()
    failures: list[str] = []
    answers = 0
    done = asyncio.Event()

    async def ask() -> None:
        nonlocal answers
        while not done.is_set():
            try:
                async with activated.client(key) as client:
                    (await client.get("/v1/models")).raise_for_status()
                    answers += 1
            except httpx.HTTPError as error:
                failures.append(f"{type(error).__name__}: {error}")

    async with activated.client(key) as waiting:
        load = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(2):
            await asyncio.sleep(0.3)
            assert await asyncio.to_thread(activated.stop) == 0
            late = asyncio.create_task(waiting.get("/v1/models"))
            await asyncio.sleep(0.3)
            assert not late.done()
            await asyncio.to_thread(activated.start)
            assert (await late).status_code == 200
        done.set()
        await asyncio.gather(*load)
    assert failures == []
    assert answers > 20


def test_chat_over_a_passed_socket(activated: Proxy) -> None:
    activated.start()
    message: dict[str, Any] = {"role": "user", "content": "LOOP"}
    answer = httpx.post(
        f"{activated.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {activated.new_key()}"},
        json={"model": "script", "max_tokens": 1, "messages": [message]},
        timeout=30,
        trust_env=False,
    )
    assert answer.json()["usage"]["completion_tokens"] == 1
