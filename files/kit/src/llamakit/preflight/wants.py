"""What preflight is asked to check."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Place = Literal["host", "local"]
Accelerator = Literal["auto", "cpu", "cuda", "vulkan", "rocm"]
MANAGERS = ("systemd-system", "systemd-user", "supervisord")
Address = tuple[str, int]  # host and port


@dataclass(frozen=True, slots=True)
class Wants:
    """The arguments of ``preflight`` beside those of the plan."""

    place: Place
    state_dir: Path
    models_dir: Path
    code_dir: Path
    services: dict[str, Address] = field(default_factory=dict)
    accelerator: Accelerator = "auto"
    gpu_group: bool = False
    packages: tuple[str, ...] = ()
    tls: bool = False
    untested_distribution: bool = False
    bind_host: str = "127.0.0.1"
    postgres: str = ""  # distribution, embedded, or that of someone else
    postgres_data_dir: Path = Path("postgres")
    secrets_dir: Path = Path("data/secrets")
    manager: str = "supervisord"  # or systemd-system, systemd-user

    def setting(self, name: str) -> str:
        """Where people set the port of a service."""
        if self.place == "local":
            variable = {"proxy": "LLAMA_PROXY_PORT=", "postgres": "POSTGRES_AUTH_PORT="}
            return f"{variable.get(name, 'LLAMA_SERVER_PORT=')} in config/local.env"
        variable = {"proxy": "auth_proxy_port", "postgres": "postgres_port"}
        return f"{variable.get(name, 'llama_server_port')} in group_vars or inventory/host_vars"

    def host_setting(self, name: str) -> str:
        """Where people set the address of a service."""
        if self.place == "local":
            return "LLAMA_PROXY_HOST= in config/local.env"
        variable = {"proxy": "auth_proxy_host", "postgres": "postgres_host"}
        return f"{variable.get(name, 'llama_server_host')} in group_vars or inventory/host_vars"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds those that the plan's do not have."""
    parser.add_argument("--place", choices=["host", "local"], default="local")
    parser.add_argument("--code-dir", type=Path, help="where environments are; the state's folder")
    parser.add_argument(
        "--service", action="append", default=[], type=_service, metavar="NAME=HOST:PORT"
    )
    parser.add_argument("--gpu-group", choices=["yes", "no"], default="no")
    parser.add_argument("--packages", type=_names, default=(), metavar="NAME,NAME")
    parser.add_argument("--tls", choices=["on", "off"], default="off")
    parser.add_argument("--untested-distribution", action="store_true")
    parser.add_argument("--postgres", choices=["distribution", "embedded", ""], default="")
    parser.add_argument("--postgres-data-dir", type=Path, default=Path("postgres"))
    parser.add_argument("--secrets-dir", type=Path, default=Path("data/secrets"))
    parser.add_argument("--manager", choices=MANAGERS, default="supervisord")


def read_wants(options: argparse.Namespace) -> Wants:
    """The arguments as they were given."""
    return Wants(
        place=options.place,
        state_dir=options.state_dir or Path("runtime"),
        models_dir=options.models_dir,
        code_dir=options.code_dir or options.state_dir or Path("runtime"),
        services=dict(options.service),
        accelerator=options.accelerator,
        gpu_group=options.gpu_group == "yes",
        packages=options.packages,
        tls=options.tls == "on",
        untested_distribution=options.untested_distribution,
        bind_host=options.bind_host,
        postgres=options.postgres,
        postgres_data_dir=options.postgres_data_dir,
        secrets_dir=options.secrets_dir,
        manager=options.manager,
    )


def _service(text: str) -> tuple[str, Address]:
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    return name, (host.strip("[]"), int(port))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
