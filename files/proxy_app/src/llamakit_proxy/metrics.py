"""Numbers for Prometheus. Token and time metrics have OpenTelemetry's GenAI names."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .exchange import Exchange

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

Reading = tuple[str, str, dict[str, str], float]
"""A gauge when it is read: name, help, labels, value."""


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._read():
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(name, text, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        return families.values()


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, gauges: Callable[[], Iterable[Reading]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(gauges))
        self.in_flight = 0
        self._requests = Counter(
            "llamakit_requests",
            "Requests answered.",
            ("route", "model", "status"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "gen_ai_server_token_usage",
            "Tokens, as the backend counted them.",
            ("model", "type"),
            registry=self.registry,
        )
        self._queued = Histogram(
            "llamakit_queue_wait_seconds",
            "Waiting for a place on a backend.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._failovers = Counter(
            "llamakit_failovers",
            "Requests that another backend was asked, because one had failed.",
            ("model",),
            registry=self.registry,
        )
        self._overhead = Histogram(
            "llamakit_overhead_seconds",
            "The proxy's own work before a backend is asked; neither queue nor network.",
            buckets=_OVERHEAD,
            registry=self.registry,
        )

    def observe(self, exchange: Exchange, seconds: float) -> None:
        """Count a request that is over."""
        model = exchange.model or ""
        self._requests.labels(exchange.path, model, str(exchange.status)).inc()
        if exchange.model is None:
            return
        self._duration.labels(model).observe(seconds)
        if exchange.ttft_seconds is not None:
            self._first_token.labels(model).observe(exchange.ttft_seconds)
        if exchange.queue_seconds is not None:
            self._queued.labels(model).observe(exchange.queue_seconds)
        if exchange.failovers:
            self._failovers.labels(model).inc(exchange.failovers)
        if exchange.overhead_seconds is not None:
            self._overhead.observe(exchange.overhead_seconds)
        if exchange.prompt_tokens is not None:
            self._tokens.labels(model, "input").inc(exchange.prompt_tokens)
        if exchange.completion_tokens is not None:
            self._tokens.labels(model, "output").inc(exchange.completion_tokens)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
