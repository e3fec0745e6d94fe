"""Whether the layers are on the GPU, from what llama.cpp says while it loads a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamakit.cli import main
from llamakit.services import gpu_proof
from llamakit.services.gpu_proof import judge, weigh
from llamakit_server.load_log import LoadLog, proof_file, write_proof

# As llama.cpp writes them; the numbers are those of a 12 GB card.
CUDA = """\
ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 5070 Ti Laptop GPU, compute capability 12.0, VMM: yes
load_tensors: loading model tensors, this can take a while... (mmap = true)
load_tensors: offloading 48 repeating layers to GPU
load_tensors: offloading output layer to GPU
load_tensors: offloaded 49/49 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   127.51 MiB
load_tensors:        CUDA0 model buffer size =  9279.83 MiB
llama_context:  CUDA_Host  output buffer size =     0.58 MiB
llama_kv_cache:      CUDA0 KV buffer size =    25.50 MiB
llama_context:      CUDA0 compute buffer size =   300.75 MiB
llama_context:  CUDA_Host compute buffer size =    10.01 MiB
"""
ROCM = """\
load_tensors: offloaded 33/33 layers to GPU
load_tensors:        ROCm0 model buffer size =  8700.15 MiB
"""
OLDER = """\
llm_load_tensors: offloading 10 repeating layers to GPU
llm_load_tensors: offloaded 10/62 layers to GPU
llm_load_tensors:        CPU buffer size =  5459.93 MiB
llm_load_tensors:  Vulkan0 model buffer size =   393.43 MiB
"""
REFUSED = """\
ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected
load_tensors: loading model tensors, this can take a while... (mmap = true)
load_tensors:   CPU_Mapped model buffer size =  9407.34 MiB
llama_kv_cache:        CPU KV buffer size =    25.50 MiB
"""
# From the CPU build that the kit's tests use.
CPU = """\
load_tensors: loading model tensors, this can take a while... (load_mode = mmap)
load_tensors: layer   0 assigned to device CPU, is_swa = 0
load_tensors:   CPU_Mapped model buffer size =     2.00 MiB
llama_kv_cache:        CPU KV buffer size =     0.12 MiB
"""


def proof_of(log: str, wanted: int = -1, *, supported: bool = True) -> dict[str, Any]:
    read = LoadLog()
    for line in log.splitlines(keepends=True):
        read.read(2, line)
    return read.proof(wanted, supported=supported)


def test_all_layers_on_the_gpu() -> None:
    proof = proof_of(CUDA)
    assert (proof["offloaded"], proof["layers"]) == (49, 49)
    assert proof["devices"] == {"CUDA0": 9305.33}
    verdict = weigh("big", proof)
    assert verdict.good
    assert verdict.cuda
    assert verdict.text == "big: 49 of 49 layers on the GPU (9305 MiB on CUDA0)"
    assert weigh("big", proof_of(ROCM)).good


def test_fewer_layers_than_asked_for() -> None:
    assert weigh("big", proof_of(OLDER, 10)).good
    verdict = weigh("big", proof_of(OLDER))
    assert not verdict.good
    assert "10 of 62 layers" in verdict.text
    assert not weigh("big", proof_of(OLDER, 20)).good
    assert weigh("big", proof_of(CUDA, 999)).good


@pytest.mark.parametrize(
    ("log", "supported", "said"),
    [
        (REFUSED, False, "no CUDA-capable device is detected"),
        (CPU, False, "built for the CPU alone"),
        (CPU, True, "gave llama.cpp no layer"),
        ("load_tensors: offloaded 0/33 layers to GPU\n", True, "0 layers"),
        ("", False, "0 layers"),
    ],
)
def test_a_silent_fall_back_to_the_processor_is_told(log: str, supported: bool, said: str) -> None:
    verdict = weigh("big", proof_of(log, supported=supported))
    assert not verdict.good
    assert said in verdict.text
    assert "do:" in verdict.text


def service(pid: int) -> dict[str, Any]:
    return {"name": "llama-big", "kind": "model", "model": "big", "pid": pid}


def test_the_proof_must_be_of_the_process_that_runs(tmp_path: Path) -> None:
    missing = judge(service(7), tmp_path)
    assert missing is not None
    assert "is not there" in missing.text
    file = proof_file(tmp_path, "big")
    write_proof(file, {**proof_of(CUDA), "pid": 7})
    good = judge(service(7), tmp_path)
    assert good is not None
    assert good.good
    stale = judge(service(8), tmp_path)
    assert stale is not None
    assert not stale.good
    file.write_text("{")
    damaged = judge(service(7), tmp_path)
    assert damaged is not None
    assert not damaged.good


def test_a_model_for_the_processor_needs_no_proof(tmp_path: Path) -> None:
    write_proof(proof_file(tmp_path, "big"), {**proof_of(CPU, 0, supported=False), "pid": 7})
    assert judge(service(7), tmp_path) is None


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gpu-proof", "--state-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(gpu_proof, "running_services", lambda _state_dir: [service(7)])
    monkeypatch.setattr(gpu_proof, "compute_processes", lambda: {1, 2})
    write_proof(proof_file(tmp_path / "run", "big"), {**proof_of(CUDA), "pid": 7})
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "49 of 49 layers" in told
    assert "nvidia-smi does not list its process (pid 7)" in told
    file = proof_file(tmp_path / "run", "big")
    file.write_text(json.dumps({**proof_of(REFUSED, supported=False), "pid": 7}))
    assert main(arguments) == 1
    assert "runs on the processor" in capsys.readouterr().err
