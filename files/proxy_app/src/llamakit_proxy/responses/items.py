"""The items of a response while they are streamed."""

from collections.abc import Iterator

from .answer import Document, Status, call, message, new_id, text_part


class TextItem:
    """A message with one part of text."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._id = new_id("msg")
        self._texts: list[str] = []
        self._logprobs: list[Document] = []

    def begin(self) -> Iterator[Document]:
        """The events before the text."""
        empty = message(self._id, "in_progress", [])
        yield {"type": "response.output_item.added", "output_index": self._index, "item": empty}
        yield {"type": "response.content_part.added", **self._place(), "part": text_part("")}

    def add(self, text: str, logprobs: list[Document]) -> Document:
        """The event for more of the text."""
        self._texts.append(text)
        self._logprobs.extend(logprobs)
        return {
            "type": "response.output_text.delta",
            **self._place(),
            "delta": text,
            "logprobs": logprobs,
        }

    def end(self, status: Status) -> Iterator[Document]:
        """The events after the text."""
        item = self.document(status)
        (part,) = item["content"]
        yield {
            "type": "response.output_text.done",
            **self._place(),
            "text": part["text"],
            "logprobs": part["logprobs"],
        }
        yield {"type": "response.content_part.done", **self._place(), "part": part}
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def document(self, status: Status) -> Document:
        """The item as it is now."""
        return message(self._id, status, [text_part("".join(self._texts), self._logprobs)])

    def _place(self) -> Document:
        return {"item_id": self._id, "output_index": self._index, "content_index": 0}


class CallItem:
    """A call of a function. ``place`` is its index among the chat's calls."""

    def __init__(self, index: int, place: int, *, call_id: str, name: str) -> None:
        self.place = place
        self._index = index
        self._id = new_id("fc")
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def begin(self) -> Iterator[Document]:
        """The event before the arguments."""
        item = self.document("in_progress")
        yield {"type": "response.output_item.added", "output_index": self._index, "item": item}

    def add(self, arguments: str) -> Document:
        """The event for more of the arguments."""
        self._arguments.append(arguments)
        return {
            "type": "response.function_call_arguments.delta",
            **self._place(),
            "delta": arguments,
        }

    def end(self, status: Status) -> Iterator[Document]:
        """The events after the arguments."""
        item = self.document(status)
        yield {
            "type": "response.function_call_arguments.done",
            **self._place(),
            "name": self._name,
            "arguments": item["arguments"],
        }
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def document(self, status: Status) -> Document:
        """The item as it is now."""
        return call(
            self._id,
            status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._arguments),
        )

    def _place(self) -> Document:
        return {"item_id": self._id, "output_index": self._index}
