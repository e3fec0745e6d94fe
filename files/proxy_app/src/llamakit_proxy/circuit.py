"""When a backend is left alone for a while, and when it is tried again. Plain data, no clock.

*Closed*: it is used. FAILURES failures in a row *open* the circuit: it is not used for a second,
then for two, four and so on while it goes on failing, up to a bound. After that it is *half-open*:
it gets one request at a time, and the first one that it begins to answer closes the circuit.
"""

from enum import Enum

FAILURES = 3
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 5.0
"""Trying a backend that fails at once costs next to nothing; it is to be back soon after it can."""
LONGEST_STALLED_SECONDS = 60.0
"""Trying one that stalls costs somebody minutes."""


class Failure(Enum):
    """How a backend failed on a request. The value is for the log."""

    UNREACHABLE = "it takes no connection"
    BROKEN = "it broke off"
    REFUSED = "it answered with an error"
    STALLED = "it gave nothing for too long"


class State(Enum):
    """Of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    """The circuit of one backend. Times are seconds on any clock that only goes forward."""

    __slots__ = (
        "_convincing",
        "_failed_at",
        "_failures",
        "_openings",
        "_user",
        "failure",
        "seconds",
        "state",
    )

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.seconds = 0.0
        """How long it stays open, while it is."""
        self.failure: Failure | None = None
        """What opened it last."""
        self._openings = 0
        self._failures = 0
        self._failed_at = float("-inf")
        self._user: int | None = None
        """Whose request it failed on last."""
        self._convincing = False
        """Whether it failed in a way that can't be the fault of one user's requests."""

    def room(self, capacity: int) -> int:
        """How many requests a backend of this capacity may work on now."""
        if self.state is State.CLOSED:
            return capacity
        return 1 if self.state is State.HALF_OPEN else 0

    def fail(
        self, failure: Failure, *, user: int, since: float, now: float, sure: bool = False
    ) -> bool:
        """The backend failed on a request that it was asked at ``since``; whether that opens it.

        Requests that were under way when another failed say nothing new: one crash is one failure.
        Errors that it answers to one user alone do not open it either, so that requests which it
        can't answer don't take it from the others. A stall counts twice. With ``sure`` one failure
        is enough.
        """
        if self.state is State.OPEN or (since < self._failed_at and not sure):
            return False
        self._failed_at = now
        self._failures += 2 if failure is Failure.STALLED else 1
        if failure is not Failure.REFUSED or self._user not in (None, user):
            self._convincing = True
        self._user = user
        enough = sure or self.state is State.HALF_OPEN or self._failures >= FAILURES
        if not (enough and self._convincing):
            return False
        self.open(failure)
        return True

    def open(self, failure: Failure) -> None:
        """Leave the backend alone, for longer than the last time."""
        longest = LONGEST_STALLED_SECONDS if failure is Failure.STALLED else LONGEST_SECONDS
        self.seconds = min(FIRST_SECONDS * 2**self._openings, longest)
        self._openings = min(self._openings + 1, 10)
        self.failure = failure
        self.state = State.OPEN

    def half_open(self) -> None:
        """Its time is over."""
        self.state = State.HALF_OPEN
        self._suspect_nobody()

    def begin(self) -> bool:
        """The backend has begun to answer a request; whether that closes it."""
        closes = self.state is not State.CLOSED
        self.state = State.CLOSED
        return closes

    def finish(self) -> None:
        """The backend has answered a request to the end: all is well again."""
        self._openings = self._failures = 0
        self._suspect_nobody()

    def _suspect_nobody(self) -> None:
        self._user = None
        self._convincing = False
