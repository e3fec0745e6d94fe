"""Numbers for Prometheus. What OpenTelemetry's GenAI conventions know has their names and bounds.

Label values are those of this list, of the routes file and of the errors, never a client's: a name
that is no model's is one value, and there is no user among them. What a person used is in the table
llama_requests.
"""

from collections.abc import Callable, Iterable
from itertools import chain

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from .exchange import Exchange
from .exposition import Counter, Histogram, Reading, readings
from .genai import OPERATIONS, PROVIDER

UNKNOWN_MODEL = "(unknown)"

_DURATION = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    # The conventions end here; a model on a processor does not.
    *(163.84, 327.68, 655.36),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    # And here: a queue may be minutes long.
    *(30.0, 60.0, 120.0, 300.0),
)
_OUTPUT_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(11))
_QUEUE = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

_GENAI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class Metrics:
    """The metrics of one process."""

    def __init__(self, gauges: Callable[[], Iterable[Reading]]) -> None:
        """``gauges`` are looked up for each scrape."""
        self._gauges = gauges
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self.in_flight = 0
        self._requests = Counter(
            "llamakit_requests_total",
            "Requests answered. error is the code in the answer, empty when there is none.",
            ("route", "model", "status", "error"),
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            (*_GENAI, "error_type"),
            buckets=_DURATION,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to its first token, the queue included; of successful ones.",
            _GENAI,
            buckets=_FIRST_TOKEN,
        )
        self._output_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Per token after the first one; of successful requests.",
            _GENAI,
            buckets=_OUTPUT_TOKEN,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request, as the backend counted them; gen_ai_token_type is input or "
            "output.",
            (*_GENAI, "gen_ai_token_type"),
            buckets=_TOKENS,
        )
        self._queued = Histogram(
            "llamakit_queue_wait_seconds",
            "Waiting for a place on a backend.",
            ("model",),
            buckets=_QUEUE,
        )
        self._before = Histogram(
            "llamakit_overhead_before_backend_seconds",
            "The proxy's own work until a request may wait for a backend: neither reading its "
            "body nor the queue.",
            buckets=_OVERHEAD,
        )
        self._failovers = Counter(
            "llamakit_failovers_total",
            "Requests that another backend was asked, because one had failed.",
            ("model",),
        )
        self._overhead = Histogram(
            "llamakit_overhead_seconds",
            "A successful request's duration without reading its body, the queue and the backend.",
            buckets=_OVERHEAD,
        )

    def observe(self, exchange: Exchange, seconds: float) -> None:
        """Count a request that is over."""
        error = exchange.error_code or ""
        model = exchange.model or (UNKNOWN_MODEL if error == "model_not_found" else "")
        self._requests.add((exchange.path, model, str(exchange.status), error))
        operation = OPERATIONS.get(exchange.path)
        if operation is None or exchange.model is None:
            return
        who = (operation, PROVIDER, model)
        self._duration.observe((*who, error), seconds)
        if exchange.queue_seconds is not None:
            self._queued.observe((model,), exchange.queue_seconds)
        if exchange.failovers:
            self._failovers.add((model,), exchange.failovers)
        if exchange.overhead_seconds is not None:
            self._before.observe((), exchange.overhead_seconds)
        if exchange.prompt_tokens is not None:
            self._tokens.observe((*who, "input"), exchange.prompt_tokens)
        if exchange.completion_tokens:
            self._tokens.observe((*who, "output"), exchange.completion_tokens)
        if error:
            return
        if exchange.ttft_seconds is not None:
            self._first_token.observe(who, exchange.ttft_seconds)
        if exchange.output_token_seconds is not None:
            self._output_token.observe(who, exchange.output_token_seconds)
        if exchange.answered_at is not None:
            elsewhere = exchange.reading_seconds + exchange.backend_seconds
            elsewhere += exchange.queue_seconds or 0.0
            self._overhead.observe((), max(0.0, seconds - elsewhere))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        families = (
            self._requests,
            self._duration,
            self._first_token,
            self._output_token,
            self._tokens,
            self._queued,
            self._before,
            self._overhead,
            self._failovers,
        )
        lines = chain.from_iterable(family.lines() for family in families)
        own = "".join(chain(readings(self._gauges()), lines)).encode()
        return own + generate_latest(self._process)
