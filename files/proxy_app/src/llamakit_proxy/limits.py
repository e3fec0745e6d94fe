"""How much a user may use: requests, tokens, requests at a time, budgets.

The stage between the key and the body, and the places where a request says what it will take and
what it took. What it is decided on is the ledger's; this waits for it and answers for it.
"""

import time
from collections.abc import Sequence

from .allowance import Kind, Rule
from .charge import Charge, Rules
from .exchange import Cause, Exchange
from .identity import Identity
from .lease_feed import LeaseFeed
from .ledger import Ledger
from .meter import Meter
from .settings import Settings

BYTES_PER_TOKEN = 3
"""A prompt is taken for a token for so many bytes until the model server has counted it. English
has about four, other scripts and code two to three."""
_MAX_RULES = 10_000


class Limits:
    """The limits of one proxy process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger()
        self._feed = LeaseFeed(settings, self._ledger)
        self._rules: dict[tuple[int | None, ...], Rules] = {}

    async def start(self) -> None:
        """Connect to the accounts; returns after a few seconds also when Postgres is away."""
        await self._feed.start()

    async def close(self) -> None:
        """Give back what is not spent."""
        await self._feed.close()

    async def enter(self, exchange: Exchange, identity: Identity) -> None:
        """Count a request, and that it is here. ApiError 429 when it may not be."""
        rules = self._rules_of(identity)
        if rules.requests is None and rules.concurrent is None and not rules.tokens:
            return
        charge = exchange.charge = Charge(rules)
        user = identity.user_id
        meters = [
            self._ledger.meter(user, rule)
            for rule in (rules.concurrent, rules.requests)
            if rule is not None
        ]
        await self._acquire(exchange, meters, 1)
        now = time.monotonic()
        for meter in meters:
            if meter.rule.kind is Kind.CONCURRENT:
                charge.slot = meter
            else:
                self._ledger.settle(meter, 1, 1, now)

    async def reserve(self, exchange: Exchange, prompt: int, completion: int) -> None:
        """Hold as many tokens as the request may take. ApiError 429 when there are not so many."""
        charge = exchange.charge
        if charge is None or not charge.rules.tokens or exchange.identity is None:
            return
        user = exchange.identity.user_id
        meters = [self._ledger.meter(user, rule) for rule in charge.rules.tokens]
        amount = prompt + completion
        await self._acquire(exchange, meters, amount)
        charge.meters, charge.reserved, charge.prompt = meters, amount, prompt

    def leave(self, exchange: Exchange) -> None:
        """The request is over: what it did not use is free again."""
        charge, exchange.charge = exchange.charge, None
        if charge is None:
            return
        now = time.monotonic()
        if charge.slot is not None:
            self._ledger.settle(charge.slot, 1, 0, now)
        if charge.meters:
            used = _used(exchange, charge)
            for meter in charge.meters:
                self._ledger.settle(meter, charge.reserved, used, now)
        if self._ledger.due:
            self._feed.wake()

    async def _acquire(self, exchange: Exchange, meters: Sequence[Meter], amount: int) -> None:
        """Hold ``amount`` of each, or of none. ApiError 429 of the first that says no."""
        held = 0
        try:
            for meter in meters:
                now = time.monotonic()
                if self._ledger.take(meter, amount, now):
                    exchange.headers += meter.headers.of(meter.remaining(now))
                else:
                    answer = meter.known_refusal(amount, now)
                    if answer is None:
                        answer = await self._feed.ask(meter, amount)
                    exchange.headers += answer.headers()
                    if not answer.allowed:
                        raise answer.refusal(amount)
                held += 1
        finally:
            if held < len(meters):
                for meter in meters[:held]:
                    self._ledger.settle(meter, amount, 0, time.monotonic())
            if self._ledger.due:
                self._feed.wake()

    def _rules_of(self, identity: Identity) -> Rules:
        key = (
            identity.rate_limit,
            identity.rate_window_seconds,
            identity.token_limit,
            identity.token_window_seconds,
            identity.max_concurrent,
            identity.day_budget,
            identity.month_budget,
        )
        rules = self._rules.get(key)
        if rules is None:
            if len(self._rules) >= _MAX_RULES:
                self._rules.clear()
            rules = self._rules[key] = rules_of(identity, self._settings)
        return rules


def rules_of(identity: Identity, settings: Settings) -> Rules:
    """A user's own limits, and the server's where they have none."""

    def rule(kind: Kind, own: int | None, default: int, window: int = 0) -> Rule | None:
        limit = default if own is None else own
        return Rule(kind, limit, window) if limit else None

    tokens = (
        rule(
            Kind.TOKENS,
            identity.token_limit,
            settings.token_limit,
            identity.token_window_seconds or settings.token_window_seconds,
        ),
        rule(Kind.DAY, identity.day_budget, settings.day_budget),
        rule(Kind.MONTH, identity.month_budget, settings.month_budget),
    )
    return Rules(
        requests=rule(
            Kind.REQUESTS,
            identity.rate_limit,
            settings.rate_limit,
            identity.rate_window_seconds or settings.rate_window_seconds,
        ),
        concurrent=rule(Kind.CONCURRENT, identity.max_concurrent, settings.max_concurrent),
        tokens=tuple(found for found in tokens if found is not None),
    )


def prompt_estimate(size: int) -> int:
    """Tokens that a prompt of ``size`` bytes is taken for."""
    return -(-size // BYTES_PER_TOKEN)


def reservation(size: int, choices: int, most: int, n_ctx: int) -> tuple[int, int]:
    """Tokens that a prompt of ``size`` bytes and its answers may take together, apart.

    Each of the ``choices`` answers has ``most`` tokens, or what the prompt leaves of the context. A
    prompt that turns out shorter than its estimate leaves more to every one of them.
    """
    prompt = min(prompt_estimate(size), n_ctx)
    most = min(most, n_ctx)
    return prompt, min(prompt, n_ctx - most) + choices * most - prompt


def _used(exchange: Exchange, charge: Charge) -> int:
    """Tokens a request took: what the backend counted; else, when it was cut off, what came. One
    that failed before its first token took none."""
    if exchange.prompt_tokens is not None:
        return exchange.prompt_tokens + (exchange.completion_tokens or 0)
    left_by_the_client = exchange.cause in (Cause.CLIENT_GONE, Cause.CLIENT_SLOW)
    if exchange.ttft_seconds is not None or (exchange.begun and left_by_the_client):
        return min(charge.reserved, charge.prompt + exchange.generated)
    return 0
