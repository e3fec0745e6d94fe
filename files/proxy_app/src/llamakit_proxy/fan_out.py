"""Several choices in one answer: as many generations, put together to one stream or document.

Each generation takes its own turn in the queue, so that others get theirs in between. No more of
them than the backends have places for are asked for at a time.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from . import sse, wire
from .chunks import Chunk, Usage
from .errors import ApiError
from .exchange import Exchange
from .relay import Relay
from .settings import Settings
from .validate.prepared import Prepared

Ask = Callable[[Relay], Awaitable[None]]
"""Takes one generation through the queue and a backend."""


class Strand(Relay):
    """One of the generations. What ends the whole answer is left to ``FanOut``."""

    def __init__(
        self,
        exchange: Exchange,
        prepared: Prepared,
        body: bytes,
        settings: Settings,
        turn: asyncio.Lock,
    ) -> None:
        super().__init__(exchange, prepared, body, settings)
        self._turn = turn

    @property
    def usage(self) -> Usage | None:
        """The tokens of this generation, once it is over."""
        return self._chunks.usage

    def document(self) -> dict[str, Any]:
        """The answer with this choice alone."""
        return self._assembly.document()

    def last_chunk(self) -> Chunk:
        """The chunk with this choice's finish reason."""
        return self._chunks.closing()[0]

    async def finish(self) -> None:
        """Write what is left of this choice to a stream."""
        if self._rest:
            await self._write(self._rest)

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            await super()._write(data)

    def _pass_on(self) -> bool:
        return not self._turn.locked() and super()._pass_on()

    def _count(self) -> None:
        """The sum is counted."""


class FanOut:
    """All generations of one request."""

    def __init__(
        self, exchange: Exchange, prepared: Prepared, bodies: list[bytes], settings: Settings
    ) -> None:
        """``bodies`` are what a backend is asked for each generation."""
        self._exchange = exchange
        self._prepared = prepared
        turn = asyncio.Lock()
        answer_id = f"{'chatcmpl' if prepared.style.chat else 'cmpl'}-{secrets.token_hex(16)}"
        self._strands = []
        documents = [prepared.document, *prepared.others]
        for index, (document, body) in enumerate(zip(documents, bodies, strict=True)):
            style = replace(prepared.style, index=index, answer_id=answer_id, include_usage=False)
            alone = replace(prepared, document=document, style=style)
            self._strands.append(Strand(exchange, alone, body, settings, turn))

    async def run(self, ask: Ask, *, at_a_time: int) -> None:
        """Ask for all of them and give the client the whole. The first failure ends all of it.

        Raises ApiError.
        """
        waiting = iter(self._strands)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_a_time, len(self._strands))):
                    group.create_task(self._work(ask, waiting))
        except BaseExceptionGroup as failures:
            if self._exchange.cause is not None:
                # The request was cut short; what failed then failed because of that, or too late.
                raise asyncio.CancelledError from None
            raise _first(failures) from None
        finally:
            self._count()
            for strand in self._strands:
                strand.close()
        self._exchange.enter(None)
        await self._deliver()

    async def _work(self, ask: Ask, waiting: Iterator[Strand]) -> None:
        """One generation after the other, as long as any wait."""
        for strand in waiting:
            await ask(strand)
            await strand.finish()

    async def _deliver(self) -> None:
        usage = self._usage()
        if self._prepared.stream:
            last = self._strands[-1].last_chunk()
            rest = b""
            if self._prepared.style.include_usage:
                chunk = {**last, "choices": [], "usage": usage.document()}
                rest = sse.event(wire.encode_leniently(chunk))
            await self._exchange.end_stream(rest + sse.DONE)
            return
        documents = [strand.document() for strand in self._strands]
        choices = [document["choices"][0] for document in documents]
        answer = {**documents[0], "choices": choices, "usage": usage.document()}
        await self._exchange.respond(200, wire.encode_leniently(answer))

    def _usage(self) -> Usage:
        """A prompt counts once, however many choices it has."""
        choices = len(self._strands) // self._prepared.prompts
        total = Usage(0, 0)
        for first in range(0, len(self._strands), choices):
            used = [s.usage for s in self._strands[first : first + choices] if s.usage is not None]
            total.prompt_tokens += max((usage.prompt_tokens for usage in used), default=0)
            total.completion_tokens += sum(usage.completion_tokens for usage in used)
        return total

    def _count(self) -> None:
        """Of an answer that was cut off only what came is known, as with a single generation."""
        if all(strand.usage is not None for strand in self._strands):
            usage = self._usage()
            self._exchange.prompt_tokens = usage.prompt_tokens
            self._exchange.completion_tokens = usage.completion_tokens


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to answer with: one that has a status, where there is one."""
    leaves: list[BaseException] = []
    groups: list[BaseException] = [failures]
    while groups:
        error = groups.pop(0)
        if isinstance(error, BaseExceptionGroup):
            groups.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, ApiError)), leaves[0])
