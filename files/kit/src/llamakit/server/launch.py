"""Starts one llama_cpp.server: ``python -m llamakit.server.launch CONFIG.json``.

Runs inside the model server's own environment, which has llama-cpp-python and nothing of ours.
Exit status: 2 for a config that can't be used, 3 for a port in use, 4 for a model that doesn't
load; else the server's own.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

EXIT_CONFIG, EXIT_PORT, EXIT_MODEL = 2, 3, 4

# Every setting of llama_cpp.server is also an unprefixed environment variable (SEED, CACHE, HOST,
# MODEL, API_KEY …), so that only what the system and the GPU runtime need may stay.
KEPT_VARIABLES = frozenset(
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "NOTIFY_SOCKET"]
)
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "VK_", "OMP_", "GGML_")

# Connections of answers in progress get this long after SIGTERM; the supervisor kills later.
GRACEFUL_SHUTDOWN_SECONDS = 15
KEEP_ALIVE_SECONDS = 30


def main(arguments: list[str] | None = None) -> NoReturn:
    """Loads the model and serves until a signal ends the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0].startswith("-"):
        stop(EXIT_CONFIG, "usage: python -m llamakit.server.launch CONFIG.json")
    config = read_config(Path(arguments[0]))
    clean_environment()
    listener = bind(str(config["host"]), int(config["port"]))
    # Nothing may be written beside us: the server's disk cache would pickle into the directory.
    os.chdir("/")
    serve(config, listener)
    sys.exit(0)


def stop(status: int, message: str) -> NoReturn:
    """Ends the process with one plain line instead of a traceback."""
    print(f"llamakit.server.launch: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def read_config(path: Path) -> dict[str, Any]:
    """Reads the config file, which holds the server's key and must be private to its owner."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            config = json.load(file)
    except OSError as error:
        stop(EXIT_CONFIG, f"can't read {path}: {error.strerror}")
    except ValueError as error:
        stop(EXIT_CONFIG, f"{path} is not JSON: {error}")
    if mode & 0o077:
        stop(EXIT_CONFIG, f"{path} has mode {mode:04o} but holds a key; run: chmod 600 {path}")
    missing = [name for name in ("host", "port", "models") if not config.get(name)]
    if missing:
        stop(EXIT_CONFIG, f"{path} lacks {', '.join(missing)}")
    if len(config["models"]) != 1:
        # With more than one, any request can unload the model that others are using.
        stop(EXIT_CONFIG, f"{path} names {len(config['models'])} models; one process serves one")
    if config.get("interrupt_requests") is not False:
        stop(EXIT_CONFIG, f"{path} must set interrupt_requests to false")
    model = config["models"][0]
    threads = usable_processors()
    # The threads of a generation spin while they wait for each other: with one thread more than
    # there are free cores it was measured 5 to 10 times slower, with one less 2 times at most.
    model.setdefault("n_threads", max(threads // 2, 1))
    model.setdefault("n_threads_batch", threads)
    return dict(config)


def clean_environment() -> None:
    """Removes the variables that pydantic-settings or llama.cpp could mistake for settings."""
    for name in list(os.environ):
        if name not in KEPT_VARIABLES and not name.startswith(KEPT_PREFIXES):
            del os.environ[name]
    # A crash would fork gdb, if there is one, and stall the restart by a second.
    os.environ["GGML_NO_BACKTRACE"] = "1"


def usable_processors() -> int:
    """Processors this process may use: its affinity, and its container's CPU quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def bind(host: str, port: int) -> socket.socket:
    """Takes the port before the model is loaded; it answers only once the server listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        stop(EXIT_PORT, f"can't listen on {host}:{port}: {error.strerror}; what uses it: ss -ltnp")
    return listener


def serve(config: dict[str, Any], listener: socket.socket) -> None:
    """Loads the model, then answers on the listener until SIGTERM or SIGINT."""
    from llamakit.server import patches

    patches.apply()
    import uvicorn
    from llama_cpp.server import app as server
    from llama_cpp.server.settings import ConfigFileSettings

    model = config["models"][0]
    try:
        settings = ConfigFileSettings.model_validate(config)
    except ValueError as error:
        stop(EXIT_CONFIG, f"llama_cpp.server refuses its settings: {error}")
    try:
        application = server.create_app(server_settings=settings, model_settings=settings.models)
    except Exception as error:
        stop(
            EXIT_MODEL,
            f"llama.cpp can't load {model['model']}: {type(error).__name__}: {error}\n"
            "  what to do: run `./console.sh models` (it checks the file), or set `verbose: true` "
            "for this model in config/models.yaml to see llama.cpp's own messages",
        )
    print(f"llamakit.server.launch: loaded {model['model']}", file=sys.stderr, flush=True)
    log_config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    log_config["formatters"]["default"]["fmt"] = "%(asctime)s %(levelname)s %(message)s"
    uvicorn.Server(
        uvicorn.Config(
            patches.without_tracebacks(application),
            log_config=log_config,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
        )
    ).run(sockets=[listener])


if __name__ == "__main__":
    main()
