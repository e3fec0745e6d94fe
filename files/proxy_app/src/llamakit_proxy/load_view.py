"""GET /admin/load: what runs and waits now, and whose it is. Never a prompt or an answer."""

import time
from typing import Any

from .exchange import Exchange
from .log_line import stamp
from .service import Service


async def show(service: Service, exchange: Exchange) -> None:
    """Answer with the load of this process."""
    await exchange.respond_json(200, load(service))


def load(service: Service) -> dict[str, Any]:
    """Each model with the requests that hold a place and those that wait, the longest first, and
    the state of what the proxy itself needs."""
    now = time.time()
    queues = service.backends.queues()
    models: dict[str, dict[str, Any]] = {
        model: {
            "running": sum(queue.running().values()),
            "queued": queue.waiting,
            "requests": [],
        }
        for model, queue in queues.items()
    }
    for other in sorted(service.exchanges, key=lambda one: one.phase_since):
        entry = models.get(other.model or "")
        if entry is not None and other.phase is not None and other.identity is not None:
            entry["requests"].append(
                {
                    "request_id": other.request_id,
                    "user": other.identity.username,
                    "key_id": other.identity.key_id,
                    "phase": other.phase,
                    "since": stamp(other.phase_since),
                    "seconds": round(now - other.phase_since, 1),
                    "stream": other.stream,
                }
            )
    return {
        "time": stamp(now),
        "in_flight": service.metrics.in_flight,
        "models": models,
        "database": "up" if service.keys.connected else "down",
        "keys": {
            "remembered": service.keys.remembered,
            "state": "current" if service.keys.connected else "as last known",
        },
        "log": {
            "rows_pending": service.request_log.pending,
            "rows_dropped": service.request_log.dropped,
        },
    }
