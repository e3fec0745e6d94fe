"""A response as a stream: the events that OpenAI's clients follow, made of a chat's chunks."""

from collections.abc import Iterable, Iterator

from llamakit_proxy import sse, wire
from llamakit_proxy.chunks import Chunks
from llamakit_proxy.errors import ApiError

from .answer import Answer, Document, Status, log_probabilities, status_of
from .items import CallItem, TextItem


class EventWriter:
    """Writes one response.

    One item of the output is open at a time. It is closed when another begins or the chat ends.
    """

    end = b""
    verbatim = False

    def __init__(self, answer: Answer, chunks: Chunks) -> None:
        self._answer = answer
        self._chunks = chunks
        self._number = 0
        self._output: list[Document] = []
        self._open: TextItem | CallItem | None = None

    def read(self, payload: bytes) -> bytes:
        """The events for one payload of the backend."""
        chunks = self._chunks.parse(payload)
        return self._written(event for chunk in chunks for event in self._of_chunk(chunk))

    def closing(self) -> bytes:
        """The events that end the last item and the response."""
        return self._written(self._end())

    def failure(self, error: ApiError) -> bytes:
        """``response.failed``, and after it an ``error``: that has the code, and OpenAI's clients
        raise it, so that nobody takes what came before for an answer."""
        return self._written(self._fail(error))

    def whole(self, answer: Document) -> Document:
        """The response without a stream."""
        return self._answer.of_chat(answer)

    def _written(self, events: Iterable[Document]) -> bytes:
        return b"".join([self._numbered(event) for event in events])

    def _numbered(self, event: Document) -> bytes:
        event["sequence_number"] = self._number
        self._number += 1
        return sse.named_event(event["type"], wire.encode_leniently(event))

    # -- the response --------------------------------------------------------------------------

    def _begin(self) -> Iterator[Document]:
        """Once, before everything else."""
        if self._number == 0:
            for name in ("response.created", "response.in_progress"):
                yield {"type": name, "response": self._answer.document("in_progress")}

    def _of_chunk(self, chunk: Document) -> Iterator[Document]:
        yield from self._begin()
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("content"):
                yield from self._text(delta["content"], log_probabilities(choice))
            for part in delta.get("tool_calls") or ():
                yield from self._call(part)

    def _end(self) -> Iterator[Document]:
        yield from self._begin()
        status: Status = "completed"
        usage = None
        for chunk in self._chunks.closing():
            yield from self._of_chunk(chunk)
            for choice in chunk["choices"]:
                status = status_of(choice["finish_reason"])
            usage = chunk.get("usage")
        if self._open is None:
            yield from self._text("", [])
        yield from self._close(status)
        response = self._answer.document(status, self._output, usage=usage)
        yield {"type": f"response.{status}", "response": response}

    def _fail(self, error: ApiError) -> Iterator[Document]:
        yield from self._begin()
        unfinished = [] if self._open is None else [self._open.document("incomplete")]
        output = [*self._output, *unfinished]
        response = self._answer.document("failed", output, error=error)
        yield {"type": "response.failed", "response": response}
        yield {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            **error.body(),
        }

    # -- its items -----------------------------------------------------------------------------

    def _text(self, text: str, logprobs: list[Document]) -> Iterator[Document]:
        item = self._open
        if not isinstance(item, TextItem):
            yield from self._close("completed")
            self._open = item = TextItem(len(self._output))
            yield from item.begin()
        if text:
            yield item.add(text, logprobs)

    def _call(self, part: Document) -> Iterator[Document]:
        """A call's first part has its id and name, all have more of its arguments."""
        item, function = self._open, part["function"]
        if not isinstance(item, CallItem) or item.place != part["index"]:
            yield from self._close("completed")
            self._open = item = CallItem(
                len(self._output), part["index"], call_id=part["id"], name=function["name"]
            )
            yield from item.begin()
        if function.get("arguments"):
            yield item.add(function["arguments"])

    def _close(self, status: Status) -> Iterator[Document]:
        item, self._open = self._open, None
        if item is not None:
            yield from item.end(status)
            self._output.append(item.document(status))
