"""The proxy beside nginx and LiteLLM, on the same two cores, in the same run.

    python -m benchmarks.run

See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from . import chart, report
from .measure import Figures, machine, rest, saturate, strangers, stream
from .stack import (
    MissingError,
    Stack,
    Subject,
    end_on_signals,
    litellm_subject,
    nginx_subject,
    processes_of,
    proxy_subject,
    running_stack,
)

PHASES = ("saturation", "one", "s10", "s50", "s200", "s500")


def main() -> None:
    options = _options()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    end_on_signals()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="llamakit-bench-") as folder:
        Path(folder).chmod(0o755)
        for results in _measure(Path(folder), options):
            # After each round: who has not the patience for all of them has those there were.
            options.json.write_text(json.dumps(results, indent=1) + "\n")
            options.json.with_suffix(".svg").write_text(chart.svg(results))
    print(report.text(results))


def _measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The results so far, after each round."""
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(running_stack(folder))
        subjects = [shared.direct()]
        for start in _subjects(shared, options.litellm):
            try:
                subjects.append(stack.enter_context(start))
            except MissingError as missing:
                print(f"left out: {missing}", flush=True)
        rounds: dict[str, dict[str, list[Figures]]] = {s.name: {} for s in subjects}
        for subject in subjects:
            saturate(subject, 1, 8)
        for number in range(options.rounds):
            # Each round begins with another one: none is always first after a pause.
            turn = number % len(subjects)
            for phase in options.phases:
                for subject in [*subjects[turn:], *subjects[:turn]]:
                    rest(process for each in subjects for process in each.processes())
                    others = strangers(_ours(shared, subjects))
                    figures = _phase(shared, subject, phase, options.seconds)
                    figures["strangers"] = others
                    rounds[subject.name].setdefault(phase, []).append(figures)
                    print(f"{number + 1} {phase:10} {subject.name:9} {_brief(figures)}", flush=True)
            yield _results(rounds)


def _results(rounds: dict[str, dict[str, list[Figures]]]) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d"),
        "machine": {**machine(), "python": platform.python_version()},
        "rounds": rounds,
        "median": {
            name: {phase: _median(found) for phase, found in phases.items()}
            for name, phases in rounds.items()
        },
    }


def _subjects(
    stack: Stack, litellm: Path | None
) -> Iterator[contextlib.AbstractContextManager[Subject]]:
    @contextlib.contextmanager
    def proxy() -> Iterator[Subject]:
        with proxy_subject(stack) as (subject, _):
            yield subject

    yield proxy()
    yield nginx_subject(stack)
    if litellm is not None:
        yield litellm_subject(stack, litellm)


def _ours(stack: Stack, subjects: list[Subject]) -> list[psutil.Process]:
    processes = [psutil.Process(), stack.backend, *processes_of(stack.postgres)]
    for subject in subjects:
        processes += subject.processes()
    return processes


def _phase(stack: Stack, subject: Subject, phase: str, seconds: int) -> Figures:
    if phase == "saturation":
        return saturate(subject, seconds, 32)
    if phase == "one":
        return saturate(subject, seconds, 1)
    return stream(stack, subject, int(phase[1:]), seconds)


def _median(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def _brief(figures: Figures) -> str:
    names = ("rps", "p50", "p99", "cpu_us", "kept", "relay_p50", "relay_p99", "cpu_s", "errors")
    return "  ".join(f"{name} {figures[name]:,.3f}" for name in names if name in figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")
    parser.add_argument("--phases", nargs="+", default=PHASES, help=" ".join(PHASES))
    parser.add_argument(
        "--litellm", type=Path, help="LiteLLM's program, in an environment of its own"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(__file__).parent / "results" / "latest.json",
        help="where the figures go; the chart beside it",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
