"""The circuits of one model's backends, with the clock that opens them again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from .circuit import Circuit, Failure, State
from .logging import LOGGER


class Breakers:
    """A circuit for each backend, by its url. ``changed`` is called when one opens or closes."""

    def __init__(
        self,
        names: Iterable[str],
        changed: Callable[[], None],
        *,
        model: str,
        reachable: Callable[[str], Awaitable[bool]] | None,
    ) -> None:
        """``reachable`` tells whether a backend takes a connection."""
        self._circuits = {name: Circuit() for name in names}
        self._changed = changed
        self._model = model
        self._reachable = reachable
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """Of those that are open."""
        self._looks: set[asyncio.Task[None]] = set()
        self._closed = False

    def circuit(self, name: str) -> Circuit:
        """A backend's circuit; for one that is gone, one that nobody looks at."""
        return self._circuits.get(name) or Circuit()

    def resize(self, names: Iterable[str]) -> None:
        """Other backends from now on. What is known of those that stay is kept."""
        before, self._circuits = self._circuits, {}
        for name in names:
            self._circuits[name] = before.get(name) or Circuit()
        for gone in before.keys() - self._circuits.keys():
            self._stop_timer(gone)

    def retry_after(self) -> float:
        """Seconds until the first one is tried again."""
        now = asyncio.get_running_loop().time()
        return min((timer.when() for timer in self._timers.values()), default=now) - now

    def close(self) -> None:
        """Try none again: the proxy ends."""
        self._closed = True
        for name in list(self._timers):
            self._stop_timer(name)
        for look in self._looks:
            look.cancel()

    def begun(self, name: str) -> None:
        """The backend has begun to answer a request."""
        if self.circuit(name).begin():
            self._stop_timer(name)
            LOGGER.info("model %s: backend %s is back", self._model, name)
            self._changed()

    def answered(self, name: str) -> None:
        """It has answered one to the end, as it should."""
        self.begun(name)
        self.circuit(name).finish()

    def failed(self, name: str, failure: Failure, *, user: int, since: float, sure: bool) -> None:
        """It has failed on a user's request that it was given at ``since``, see Circuit."""
        circuit, now = self.circuit(name), asyncio.get_running_loop().time()
        opened = circuit.fail(failure, user=user, since=since, now=now, sure=sure)
        if not opened or name not in self._circuits:
            return
        LOGGER.warning(
            "model %s: backend %s is left alone for %g s: %s",
            self._model,
            name,
            circuit.seconds,
            failure.value,
        )
        self._wait_out(name)
        self._changed()

    def _wait_out(self, name: str) -> None:
        if not self._closed:
            seconds, loop = self._circuits[name].seconds, asyncio.get_running_loop()
            self._timers[name] = loop.call_later(seconds, self._try_again, name)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _try_again(self, name: str) -> None:
        del self._timers[name]
        if self._circuits[name].failure is not Failure.UNREACHABLE or self._reachable is None:
            self._half_open(name)
            return
        look = asyncio.get_running_loop().create_task(self._look(name, self._reachable(name)))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, name: str, reachable: Awaitable[bool]) -> None:
        """A connection costs nobody anything: only when there is one, a request tries the rest."""
        circuit = self._circuits[name]
        up = await reachable
        outdated = self._circuits.get(name) is not circuit or name in self._timers
        if self._closed or outdated or circuit.state is not State.OPEN:
            return
        if up:
            self._half_open(name)
        else:
            circuit.open(Failure.UNREACHABLE)
            self._wait_out(name)

    def _half_open(self, name: str) -> None:
        self._circuits[name].half_open()
        self._changed()
