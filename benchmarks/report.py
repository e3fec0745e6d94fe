"""The figures of run.py as tables of text.

`python -m benchmarks.report FILE` prints those of an earlier run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = list[str]


def text(results: dict[str, Any]) -> str:
    """Everything, for people."""
    median = results["median"]
    found = results["machine"]
    parts = [
        f"{results['when']}: {found['cores']} cores of {found['cpu']}, {found['system']}, "
        f"Python {found['python']}. Medians; times in milliseconds."
    ]
    if any("saturation" in phases for phases in median.values()):
        parts.append(_requests(median))
    streams = sorted(
        {p for phases in median.values() for p in phases if p[1:].isdigit()},
        key=lambda phase: int(phase[1:]),
    )
    parts += [_streams(median, phase) for phase in streams]
    return "\n\n".join(parts)


def _requests(median: dict[str, Any]) -> str:
    rows = [
        [
            "requests",
            "a second",
            "of nginx's",
            "CPU us each",
            "p50",
            "p99",
            "alone p50",
            "added",
            "errors",
        ]
    ]
    for name, phases in median.items():
        full, alone = phases.get("saturation"), phases.get("one")
        if full is None:
            continue
        rows.append(
            [
                name,
                f"{full['rps']:,.0f}",
                _share(full["rps"], _get(median, "nginx", "saturation", "rps")),
                _number(full["cpu_us"]) if name != "direct" else "-",
                _number(full["p50"]),
                _number(full["p99"]),
                _number(alone["p50"]) if alone else "-",
                _less(alone, "p50", _get(median, "direct", "one", "p50")),
                f"{full['errors']:.0f}",
            ]
        )
    return _table(rows)


def _streams(median: dict[str, Any], phase: str) -> str:
    rows = [
        [
            f"{phase[1:]} streams",
            "chunks a second",
            "kept",
            "CPU s/100,000",
            "x nginx",
            "ttft p50",
            "p99",
            "relay p50",
            "p99",
            "RSS MiB",
            "errors",
        ]
    ]
    for name, phases in median.items():
        found = phases.get(phase)
        if found is None:
            continue
        nginx = _get(median, "nginx", phase, "cpu_s")
        rows.append(
            [
                name,
                f"{found['chunks_s']:,.0f}",
                f"{found['kept']:.0%}",
                _number(found["cpu_s"]) if name != "direct" else "-",
                _number(found["cpu_s"] / nginx) if nginx and name != "direct" else "-",
                *(
                    _number(found[figure])
                    for figure in ("ttft_p50", "ttft_p99", "relay_p50", "relay_p99")
                ),
                f"{found['rss_mib']:.0f}" if name != "direct" else "-",
                f"{found['errors'] + found['short']:.0f}",
            ]
        )
    return _table(rows)


def _get(median: dict[str, Any], name: str, phase: str, figure: str) -> float | None:
    found: float | None = median.get(name, {}).get(phase, {}).get(figure)
    return found


def _share(value: float, whole: float | None) -> str:
    return "-" if not whole else f"{value / whole:.1%}"


def _less(figures: dict[str, float] | None, name: str, base: float | None) -> str:
    return "-" if figures is None or base is None else _number(figures[name] - base)


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(rows: list[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    print(text(json.loads(Path(sys.argv[1]).read_text())))
