"""The figures of run.py as a picture, in SVG.

`python -m benchmarks.chart FILE` draws those of an earlier run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_COLOURS = {"llamakit": "#2563eb", "nginx": "#64748b", "litellm": "#d97706"}
_INK, _PAPER = "#0f172a", "#ffffff"
_WIDTH, _MARGIN, _LABEL = 760, 32, 96
_BAR, _GAP, _HEADING = 22, 8, 46
_FONT = "font-family='system-ui, sans-serif'"

Bar = tuple[str, float, str]
"""A name, its value, and the value in words."""


def svg(results: dict[str, Any]) -> str:
    """Three panels: requests a second, CPU for streams, and who keeps the pace."""
    median = {name: found for name, found in results["median"].items() if name in _COLOURS}
    panels = [
        (
            "Requests a second on one core, 32 connections",
            [
                (name, found["saturation"]["rps"], f"{found['saturation']['rps']:,.0f}")
                for name, found in median.items()
                if "saturation" in found
            ],
        )
    ]
    phases = {phase for found in median.values() for phase in found if phase[1:].isdigit()}
    panels += [
        (
            f"{phase[1:]} streams of 50 chunks a second: chunks that came in time",
            [
                (name, found[phase]["kept"], _streams_words(found[phase]))
                for name, found in median.items()
                if phase in found
            ],
        )
        for phase in sorted(phases, key=lambda phase: int(phase[1:]))
    ]
    parts, y = [], _MARGIN
    for title, bars in panels:
        if bars:
            drawn, height = _panel(title, bars, y)
            parts.append(drawn)
            y += height
    found = results["machine"]
    note = f"{results['when']}, {found['cpu']}, {found['system']}, Python {found['python']}"
    parts.append(_text(_MARGIN, y + 14, note, size=11, colour="#475569"))
    height = y + _MARGIN
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' "
        f"width='{_WIDTH}' height='{height}' role='img' aria-label='Benchmark'>\n"
        f"<rect width='{_WIDTH}' height='{height}' fill='{_PAPER}'/>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _streams_words(found: dict[str, float]) -> str:
    return f"{found['kept']:.0%}, {found['cpu_s']:.1f} s of CPU for 100,000"


def _panel(title: str, bars: list[Bar], y: int) -> tuple[str, int]:
    """Bars from zero, the longest as wide as there is room; and the panel's height."""
    left, right = _MARGIN + _LABEL, _WIDTH - _MARGIN
    words_width = 230
    full = right - left - words_width
    most = max(value for _, value, _ in bars) or 1
    parts = [_text(_MARGIN, y + 14, title, size=14, bold=True)]
    top = y + 28
    bottom = top + len(bars) * (_BAR + _GAP) - _GAP
    for number, (name, value, words) in enumerate(bars):
        at = top + number * (_BAR + _GAP)
        length = max(2.0, full * value / most)
        parts += [
            _text(left - 10, at + 16, name, anchor="end"),
            f"<rect x='{left}' y='{at}' width='{length:.0f}' height='{_BAR}' rx='3' "
            f"fill='{_COLOURS[name]}'/>",
            _text(round(left + length + 8), at + 16, words),
        ]
    return "\n".join(parts), bottom - y + _HEADING - 18


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    bold: bool = False,
    anchor: str = "start",
    colour: str = _INK,
) -> str:
    weight = " font-weight='600'" if bold else ""
    return (
        f"<text x='{x}' y='{y}' {_FONT} font-size='{size}'{weight} text-anchor='{anchor}' "
        f"fill='{colour}'>{escape(words)}</text>"
    )


if __name__ == "__main__":
    source = Path(sys.argv[1])
    source.with_suffix(".svg").write_text(svg(json.loads(source.read_text())))
