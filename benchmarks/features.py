"""What each feature of the proxy costs: the same load with one of them left out at a time.

    python -m benchmarks.features

The rounds of all variants alternate, and the least CPU time of each counts: what disturbs a round
only ever adds to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.certificates import self_signed
from support.proxy import new_proxy

from .measure import saturate
from .stack import (
    PROXY_CORE,
    RATE_LIMIT,
    Stack,
    Subject,
    backend_model,
    end_on_signals,
    on_core,
    process_of,
    running,
    running_stack,
    wait_for_answer,
)
from .variants import VARIANTS

CHECKOUT = Path(__file__).parents[1]
EVERYTHING = "nothing"
"""The variant that leaves nothing out."""
LIMITS, TLS = "limits", "TLS"
"""What settings switch: a key without a limit, and a certificate."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(__file__).parent / "results" / "features.json",
        help="where the figures go",
    )
    options = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="llamakit-bench-") as folder:
        Path(folder).chmod(0o755)
        costs = _measure(Path(folder), options.rounds, options.seconds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(costs, indent=1) + "\n")
    print(text(costs))


def text(costs: Mapping[str, float]) -> str:
    """The figures as a table: what is saved without a feature, and what TLS adds."""
    whole = costs[EVERYTHING]
    lines = [f"{'everything on':16}  {whole:6.1f} us of CPU for a request"]
    for name, found in costs.items():
        if name != EVERYTHING:
            cost = found - whole if name == TLS else whole - found
            lines.append(f"{name:16}  {cost:6.1f} us, {cost / whole:4.0%}")
    return "\n".join(lines)


def _measure(folder: Path, rounds: int, seconds: int) -> dict[str, float]:
    costs: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(running_stack(folder))
        subjects = [
            stack.enter_context(_variant(shared, name)) for name in (*VARIANTS, LIMITS, TLS)
        ]
        for number in range(rounds):
            for subject in subjects:
                found = saturate(subject, seconds, 32)["cpu_us"]
                print(f"{number + 1} {subject.name:16} {found:6.1f} us", flush=True)
                costs[subject.name] = min(found, costs.get(subject.name, found))
    return costs


@contextlib.contextmanager
def _variant(stack: Stack, name: str) -> Iterator[Subject]:
    folder = stack.folder / name.replace(" ", "-")
    folder.mkdir()
    tls = {"LLAMA_PROXY_TLS": "1"} if name == TLS else {}
    proxy = new_proxy(stack.postgres, folder, [backend_model(stack)], **tls)
    if tls:
        self_signed(folder).install(proxy.settings.secrets_dir)
    left_out = name if name in VARIANTS else EVERYTHING
    program = [sys.executable, "-m", "benchmarks.variants", left_out]
    path = {"PYTHONPATH": f"{proxy.environment['PYTHONPATH']}:{CHECKOUT}"}
    with running(
        on_core(PROXY_CORE, program), folder, "proxy", {**proxy.environment, **path}
    ) as process:
        wait_for_answer(f"{proxy.url}/healthz", process, folder / "proxy.log")
        yield Subject(
            name,
            proxy.port,
            proxy.new_key(rate_limit=0 if name == LIMITS else RATE_LIMIT),
            process_of(process),
            scheme="https" if tls else "http",
        )


if __name__ == "__main__":
    main()
