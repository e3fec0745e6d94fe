"""Whose turn it is among the users that wait: by their weights, and in order of arrival for each.

Every user who waits has a time at which their next turn is due, on a clock that moves only when
turns are taken. Turns of a user with the weight w are 1/w apart; a newcomer's first one is due 1/w
after the turn that was taken last, so coming back often gains nothing, and nothing has to be kept
of users that do not wait. Whoever is due first is next; of two, who has waited longer.

Nobody starves: before the n-th of the requests that a user of weight w has waiting, a user of
weight v has at most ``floor(n * v / w) + 1`` turns.
"""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

MAX_WEIGHT = 100
_APART = 1 << 32
"""Between two turns of a user with the weight 1. Whole numbers, so that nothing is ever rounded
differently; large, so that all weights divide it well."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request: waiting while ``backend`` is None, running on that backend otherwise."""

    user: int
    weight: int = 1
    batch: bool = False
    conversation: int | None = None
    """Requests with the same one are best served by the same backend."""
    backend: str | None = None
    tried: tuple[str, ...] = ()
    """Backends it was taken away from."""
    over: bool = False
    """Left the scheduler: released, or given up while waiting."""


@dataclass(eq=False, slots=True)
class _Line:
    """What one user has waiting."""

    apart: int
    tickets: deque[Ticket]


class Turns:
    """The tickets that wait."""

    __slots__ = ("_arrivals", "_due", "_lines", "_now", "depth")

    def __init__(self) -> None:
        self.depth = 0
        """How many there are."""
        self._lines: dict[int, _Line] = {}
        self._due: list[tuple[int, int, int]] = []
        """A heap of (when the next turn is due, order of arrival, user), one for each line. A line
        that was abandoned keeps its place until it is due: there is one per user at most."""
        self._now = 0
        self._arrivals = 0

    def add(self, ticket: Ticket) -> None:
        """The ticket waits from now on."""
        apart = _APART // ticket.weight
        line = self._lines.get(ticket.user)
        if line is None:
            line = self._lines[ticket.user] = _Line(apart, deque())
            heappush(self._due, (self._now + apart, self._arrive(), ticket.user))
        line.apart = apart
        line.tickets.append(ticket)
        self.depth += 1

    def first(self) -> Ticket:
        """Whose turn it is. IndexError when nobody waits."""
        while True:
            user = self._due[0][2]
            tickets = self._lines[user].tickets
            if tickets:
                return tickets[0]
            heappop(self._due)
            del self._lines[user]

    def take(self) -> None:
        """The turn of ``first`` is taken; call it after that."""
        due, _, user = self._due[0]
        line = self._lines[user]
        line.tickets.popleft()
        self._now = due
        self.depth -= 1
        if line.tickets:
            heapreplace(self._due, (due + line.apart, self._arrive(), user))
        else:
            heappop(self._due)
            del self._lines[user]

    def drop(self, ticket: Ticket) -> None:
        """The ticket waits no more."""
        self._lines[ticket.user].tickets.remove(ticket)
        self.depth -= 1

    def _arrive(self) -> int:
        self._arrivals += 1
        return self._arrivals
