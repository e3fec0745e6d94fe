"""Starts one llama_cpp.server: ``python -m llamakit_server.launch CONFIG.json``.

Runs inside the model server's own environment, which has llama-cpp-python and nothing of ours. The
server's key is the file ``llama_api_key`` in the folder that CREDENTIALS_DIRECTORY (systemd) or
LLAMAKIT_SECRETS_DIR names. Where the layers are is written to run/gpu-NAME.json below the directory
that it is started in, if there is such a folder.
Exit status: 2 for a config that can't be used, 3 for a port in use, 4 for a model that doesn't
load; else the server's own.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from llamakit_server.load_log import listening, proof_file, write_proof

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

KEY_FILE = "llama_api_key"
KEY_PLACES = f"the file {KEY_FILE} in $CREDENTIALS_DIRECTORY or $LLAMAKIT_SECRETS_DIR"


def main(arguments: list[str] | None = None) -> NoReturn:
    """Loads the model and serves until a signal ends the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0].startswith("-"):
        stop(EXIT_CONFIG, "usage: python -m llamakit_server.launch CONFIG.json")
    config_file = Path(arguments[0])
    config = read_config(config_file)
    config["api_key"] = read_key()
    clean_environment()
    listener = bind(str(config["host"]), int(config["port"]))
    proof = proof_file(Path.cwd() / "run", config_file.stem)
    # Nothing may be written beside us: the server's disk cache would pickle into the directory.
    os.chdir("/")
    serve(config, listener, proof)
    sys.exit(0)


def stop(status: int, message: str) -> NoReturn:
    """Ends the process with one plain line instead of a traceback."""
    print(f"llamakit_server.launch: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def read_config(path: Path) -> dict[str, Any]:
    """Reads the config file, which holds everything but the server's key."""
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        stop(EXIT_CONFIG, f"can't read {path}: {error.strerror}")
    except ValueError as error:
        stop(EXIT_CONFIG, f"{path} is not JSON: {error}")
    if "api_key" in config:
        # Others may read the file, and a key that is in two places is wrong in one of them.
        stop(EXIT_CONFIG, f"{path} holds a key; remove api_key from it: it belongs in {KEY_PLACES}")
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


def read_key() -> str:
    """The key that the proxy has to show; without one everyone on this machine could ask."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY") or os.environ.get("LLAMAKIT_SECRETS_DIR")
    if not folder:
        stop(EXIT_CONFIG, f"there is no key for the server; expected it in {KEY_PLACES}")
    file = Path(folder, KEY_FILE)
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        stop(EXIT_CONFIG, f"can't read the server's key in {file}: {reason}")
    if not key:
        stop(EXIT_CONFIG, f"the server's key in {file} is empty; deploy again to make one")
    return key


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


def serve(config: dict[str, Any], listener: socket.socket, proof: Path) -> None:
    """Loads the model, then answers on the listener until SIGTERM or SIGINT."""
    from llamakit_server import patches

    model = config["models"][0]
    patches.apply(model.get("model_alias"))
    import uvicorn
    from llama_cpp.server import app as server
    from llama_cpp.server.settings import ConfigFileSettings

    try:
        settings = ConfigFileSettings.model_validate(config)
    except ValueError as error:
        stop(EXIT_CONFIG, f"llama_cpp.server refuses its settings: {error}")
    with listening() as heard:
        try:
            application = server.create_app(
                server_settings=settings, model_settings=settings.models
            )
        except Exception as error:
            said = "".join(f"\n  llama.cpp: {line}" for line in heard.errors)
            stop(
                EXIT_MODEL,
                f"llama.cpp can't load {model['model']}: {type(error).__name__}: {error}{said}\n"
                "  what to do: run `./console.sh models` (it checks the file), or set "
                "`verbose: true` for this model in config/models.yaml to see all its messages",
            )
    print(f"llamakit_server.launch: loaded {model['model']}", file=sys.stderr, flush=True)
    tell_layers(heard.proof(settings.models[0].n_gpu_layers, supported=gpu_support()), proof)
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


def gpu_support() -> bool:
    """True when llama.cpp was built for a GPU and found one."""
    import llama_cpp

    return bool(llama_cpp.llama_supports_gpu_offload())


def tell_layers(proof: dict[str, Any], file: Path) -> None:
    """Leaves for ``llamakit gpu-proof``, and in the log, where the layers are."""
    if proof["wanted"]:
        told = ", ".join(f"{name} {size:.0f} MiB" for name, size in proof["devices"].items())
        print(
            f"llamakit_server.launch: {proof['offloaded']} of {proof['layers'] or 'all'} layers "
            f"on the GPU ({told or proof['refusal'] or 'llama.cpp found none'})",
            file=sys.stderr,
            flush=True,
        )
    if file.parent.is_dir():
        try:
            write_proof(file, proof)
        except OSError as error:
            print(
                f"llamakit_server.launch: can't write {file}: {error.strerror}",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    main()
