"""The engines that can serve a model; each stands in one module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llamakit.models.gguf_header import Header


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine must know of a model to set itself up."""

    path: str  # of the file that is loaded
    name: str  # what the engine calls the model in its answers
    embedding: bool
    gpu_layers: int
    settings: Mapping[str, Any]  # what the user set
    header: Header | None  # None when the file is not there yet


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine is: what to install, how it is launched, set and known to be ready."""

    name: str
    requirement: str  # a pinned requirement for pip
    command: tuple[str, ...]  # arguments of its environment's python, before the config file
    probe: Mapping[str, str]  # answers only when the model is loaded
    capacity: int  # requests it works on at once
    fields: Mapping[str, Mapping[str, Any]]  # settings the user may give, as JSON schema
    refused: Mapping[str, str]  # settings the user may not give, and why
    model_settings: Callable[[Request], dict[str, Any]]
    server_settings: Callable[[str, int], dict[str, Any]]


def engines() -> dict[str, Engine]:
    """All engines by the name that models.yaml uses."""
    from llamakit.engines.llama_cpp_python import ENGINE

    return {engine.name: engine for engine in (ENGINE,)}


DEFAULT_ENGINE = "llama_cpp_python"
