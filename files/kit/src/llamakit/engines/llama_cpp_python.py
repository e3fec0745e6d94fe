"""llama-cpp-python's server: one generation at a time, no queue, one process a model."""

from __future__ import annotations

from typing import Any

from llamakit.engines import Engine, Request

DEFAULT_CONTEXT = 4096  # tokens
CONTEXT_MULTIPLE = 256

# The head sizes for which llama.cpp has flash attention kernels on every backend.
FLASH_ATTENTION_HEADS = frozenset({64, 80, 96, 112, 128, 256})

_BOOLEAN = {"type": "boolean"}
_INTEGER = {"type": "integer"}
_COUNT = {"type": "integer", "minimum": 0}
_POSITIVE = {"type": "integer", "minimum": 1}
_NUMBER = {"type": "number"}
_TEXT = {"type": "string", "minLength": 1}

# The model settings of llama_cpp.server 0.3.36 (llama_cpp/server/settings.py) that are safe to set.
FIELDS: dict[str, dict[str, Any]] = {
    "n_gpu_layers": {
        "oneOf": [{"const": "auto"}, {"type": "integer", "minimum": -1}],
        "description": "auto (all on a GPU host, none elsewhere), -1 for all, or a number",
    },
    "split_mode": _COUNT,
    "main_gpu": _COUNT,
    "tensor_split": {"type": "array", "items": _NUMBER, "minItems": 1},
    "use_mmap": _BOOLEAN,
    "use_mlock": _BOOLEAN,
    "kv_overrides": {"type": "array", "items": _TEXT},
    "seed": _INTEGER,
    "n_ctx": {
        "type": "integer",
        "minimum": 0,
        "multipleOf": CONTEXT_MULTIPLE,
        "description": "tokens of context, a multiple of 256, or 0 for the model's own",
    },
    "n_batch": _POSITIVE,
    "n_ubatch": _POSITIVE,
    "n_threads": {"type": "integer", "minimum": 1},
    "n_threads_batch": _COUNT,
    "rope_scaling_type": _INTEGER,
    "rope_freq_base": _NUMBER,
    "rope_freq_scale": _NUMBER,
    "yarn_ext_factor": _NUMBER,
    "yarn_attn_factor": _NUMBER,
    "yarn_beta_fast": _NUMBER,
    "yarn_beta_slow": _NUMBER,
    "yarn_orig_ctx": _COUNT,
    "mul_mat_q": _BOOLEAN,
    "logits_all": {
        "type": "boolean",
        "description": "true allows logprobs and costs n_ctx * vocabulary * 4 bytes",
    },
    "embedding": {"type": "boolean", "description": "the same as kind: embedding"},
    "offload_kqv": _BOOLEAN,
    "flash_attn": _BOOLEAN,
    "last_n_tokens_size": _COUNT,
    "lora_base": _TEXT,
    "lora_path": _TEXT,
    "numa": {"type": ["boolean", "integer"]},
    "chat_format": _TEXT,
    "chat_template_kwargs": {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    },
    "hf_tokenizer_config_path": _TEXT,
    "draft_model": {"enum": ["prompt-lookup-decoding"]},
    "draft_model_num_pred_tokens": _POSITIVE,
    "type_k": _COUNT,
    "type_v": _COUNT,
    "verbose": _BOOLEAN,
}

_OURS = "llamakit sets it itself"
_DOWNLOADS = "the server would download at start; use source: to fetch files"
_CACHE = "its memory is not bounded by cache_size, and on disk it reads pickles"
REFUSED: dict[str, str] = {
    "model": "the file comes from source:",
    "model_alias": "clients' names are id: and aliases:",
    "interrupt_requests": "any request would cut the others' streams; it is always false",
    "api_key": "the server's key is generated and kept in a 0600 file",
    "host": _OURS,
    "ssl_keyfile": _OURS,
    "ssl_certfile": _OURS,
    "root_path": _OURS,
    "disable_ping_events": _OURS,
    "models": "one process serves one model; add an entry to models: instead",
    "vocab_only": "a model without weights can't answer",
    "rpc_servers": "llama.cpp's RPC protocol has no authentication",
    "clip_model_path": "image models fetch any URL or file a user names; only text is served",
    "hf_model_repo_id": _DOWNLOADS,
    "hf_pretrained_model_name_or_path": _DOWNLOADS,
    "cache": _CACHE,
    "cache_type": _CACHE,
    "cache_size": _CACHE,
}


def model_settings(request: Request) -> dict[str, Any]:
    """The model's entry of the config file: safe values, then what the user set over them."""
    header = request.header
    context = request.settings.get("n_ctx", DEFAULT_CONTEXT)
    if header is not None and header.context_length:
        own = header.context_length // CONTEXT_MULTIPLE * CONTEXT_MULTIPLE
        asked = "n_ctx" in request.settings and context > 0
        context = context if asked else min(context or own, own) or CONTEXT_MULTIPLE
    settings: dict[str, Any] = {
        "model": request.path,
        "model_alias": request.name,
        "n_ctx": context,
        "n_gpu_layers": request.gpu_layers,
        # Keeping the logits of every token would cost n_ctx * vocabulary * 4 bytes.
        "logits_all": False,
        "use_mlock": False,
        "verbose": False,
        "flash_attn": header is not None and header.head_size in FLASH_ATTENTION_HEADS,
    }
    if request.embedding:
        # Input longer than a batch can't be embedded, so that a batch takes the whole context.
        settings |= {"embedding": True, "n_batch": context or 512, "n_ubatch": context or 512}
    chosen = dict(request.settings)
    if chosen.get("n_gpu_layers") == "auto":
        del chosen["n_gpu_layers"]
    chosen.pop("n_ctx", None)
    return settings | chosen


def server_settings(host: str, port: int) -> dict[str, Any]:
    """The top level of the config file, without its key."""
    return {"host": host, "port": port, "interrupt_requests": False}


ENGINE = Engine(
    name="llama_cpp_python",
    requirement="llama-cpp-python==0.3.36",
    command=("-m", "llamakit_server.launch"),
    # Every other route waits for the model's lock; this one needs neither lock nor key.
    probe={"type": "http", "path": "/openapi.json"},
    capacity=1,
    fields=FIELDS,
    refused=REFUSED,
    model_settings=model_settings,
    server_settings=server_settings,
)
