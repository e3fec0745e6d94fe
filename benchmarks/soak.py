"""A long load: what grows, and what is left behind when it is over.

    python -m benchmarks.soak

Plain requests, and streams whose readers leave in the middle. Before, meanwhile and after: memory,
descriptors, and the proxy's gauges. The exit status is 1 when something was left behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from support.proxy import Proxy

from .measure import Figures, memory, saturate, stream
from .stack import Stack, Subject, end_on_signals, proxy_subject, running_stack

_SLICE_SECONDS = 20
_READERS = 200
_LEAVE_AFTER = 5
_SETTLE_SECONDS = 10.0
_GAUGES = ("llamakit_in_flight", "llamakit_log_rows_pending")
_GAUGES_OF_MODELS = ("llamakit_running", "llamakit_queued")
GROWTH_MIB = 8.0
"""What memory may grow by, once it is warm."""
GROWTH_DESCRIPTORS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=10_000, help="streams whose reader leaves")
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results" / "soak.json"
    )
    options = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="llamakit-bench-") as folder:
        Path(folder).chmod(0o755)
        with running_stack(Path(folder)) as stack, proxy_subject(stack) as (subject, proxy):
            states, complaints = soak(stack, subject, proxy, options.requests, options.streams)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(states, indent=1) + "\n")
    for complaint in complaints:
        print(complaint)
    sys.exit(1 if complaints else 0)


def soak(
    stack: Stack, subject: Subject, proxy: Proxy, requests: int, streams: int
) -> tuple[dict[str, Figures], list[str]]:
    """Run both loads; the state at each step, and what is wrong with the last one."""
    # Both loads once: what is made at first use is there, and so are the idle connections.
    saturate(subject, 2, 32)
    stream(stack, subject, _READERS, 2, pace=5, leave_after=_LEAVE_AFTER)
    states = [_state("warm", subject, proxy)]
    asked = errors = 0.0
    while asked < requests:
        figures = saturate(subject, _SLICE_SECONDS if requests > 10_000 else 1, 32)
        asked, errors = asked + figures["requests"], errors + figures["errors"]
        states.append(_state(f"{asked:,.0f} requests", subject, proxy))
    left = 0.0
    while left < streams:
        seconds = 5 if streams > 1_000 else 1
        figures = stream(stack, subject, _READERS, seconds, pace=5, leave_after=_LEAVE_AFTER)
        left, errors = left + figures["left"], errors + figures["errors"]
        states.append(_state(f"{left:,.0f} streams left", subject, proxy))
    states.append(_state("after", subject, proxy))
    return dict(states), _complaints(states[0][1], states[-1][1], errors)


def _state(name: str, subject: Subject, proxy: Proxy) -> tuple[str, Figures]:
    """What the proxy holds once it has come to rest."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while any((gauges := _gauges(proxy)).values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    worker = max(subject.processes(), key=lambda process: process.memory_info().rss)
    found: Figures = {
        "rss_mib": memory(subject),
        "worker_rss_mib": worker.memory_info().rss / (1 << 20),
        "descriptors": worker.num_fds(),
        "threads": worker.num_threads(),
        "connections": len(worker.net_connections("tcp")),
        **gauges,
    }
    print(
        f"{name:24} " + "  ".join(f"{key} {value:,.1f}" for key, value in found.items()), flush=True
    )
    return name, found


def _gauges(proxy: Proxy) -> Figures:
    # The question itself is none of the requests in flight: pages are not counted.
    found = {name: proxy.metric(name) for name in _GAUGES}
    return found | {name: proxy.metric(name, model="mock") for name in _GAUGES_OF_MODELS}


def _complaints(warm: Figures, after: Figures, errors: float) -> list[str]:
    complaints = [] if not errors else [f"{errors:.0f} requests failed"]
    grown = after["worker_rss_mib"] - warm["worker_rss_mib"]
    if grown > GROWTH_MIB:
        complaints.append(f"memory grew by {grown:.1f} MiB; expected at most {GROWTH_MIB:g}")
    more = after["descriptors"] - warm["descriptors"]
    if more > GROWTH_DESCRIPTORS:
        complaints.append(f"{more:.0f} descriptors more; expected at most {GROWTH_DESCRIPTORS}")
    complaints += [
        f"{name} is {after[name]:g}; expected 0"
        for name in (*_GAUGES, *_GAUGES_OF_MODELS)
        if after[name]
    ]
    return complaints


if __name__ == "__main__":
    main()
