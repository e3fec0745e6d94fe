"""What one request holds of its user's limits."""

from dataclasses import dataclass, field

from .allowance import Rule
from .meter import Meter


@dataclass(frozen=True, slots=True)
class Rules:
    """All that holds for a user. None is no limit."""

    requests: Rule | None
    concurrent: Rule | None
    tokens: tuple[Rule, ...]
    """Of the kinds tokens, day and month."""


@dataclass(slots=True)
class Charge:
    """What one request holds until it is over."""

    rules: Rules
    slot: Meter | None = None
    meters: list[Meter] = field(default_factory=list)
    """Where its tokens are reserved."""
    reserved: int = 0
    prompt: int = 0
    """How much of that is for the prompt, which is used once the model has begun."""
