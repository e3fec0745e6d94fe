"""How much was spent in the last so many seconds: a sliding window, counted in slices."""

from collections import deque

SLICES = 64
"""A window is counted in this many slices: the memory for it, and how much later than strictly
necessary (one slice) something may count as out of the window. Never earlier."""


class Window:
    """``length`` is in seconds, and may be changed. The clock given never goes back."""

    __slots__ = ("_slices", "_used", "length")

    def __init__(self, length: float) -> None:
        self.length = length
        self._used = 0
        self._slices: deque[tuple[float, int]] = deque()
        """(end of the slice, amount in it), oldest first."""

    def add(self, amount: int, now: float) -> None:
        """Something was spent at ``now``."""
        slices = self._slices
        self._used += amount
        if slices and now < slices[-1][0]:
            end, before = slices[-1]
            slices[-1] = (end, before + amount)
            return
        self._expire(now)
        width = self.length / SLICES
        slices.append((now - now % width + width, amount))

    def used(self, now: float) -> int:
        """What was spent in the window that ends at ``now``."""
        self._expire(now)
        return self._used

    def until_free(self, amount: int, now: float) -> float:
        """Seconds until ``amount`` of what is in the window has left it."""
        self._expire(now)
        for end, spent in self._slices:
            amount -= spent
            if amount <= 0:
                return end + self.length - now
        return self.length

    def until_empty(self, now: float) -> float:
        """Seconds until all has left it."""
        self._expire(now)
        return self._slices[-1][0] + self.length - now if self._slices else 0.0

    def _expire(self, now: float) -> None:
        slices, edge = self._slices, now - self.length
        while slices and slices[0][0] <= edge:
            self._used -= slices.popleft()[1]
