"""What llama-cpp-python 0.3.36 needs so that no single request can break its server.

Each patch is one function that says what goes wrong without it. ``apply`` must run before
``llama_cpp.server.app`` is imported, because that module binds the request classes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

EXPECTED_VERSION = "0.3.36"
MAX_GRAMMAR_CHARACTERS = 200_000
MAX_GRAMMAR_GROUPS = 3000  # llama.cpp's grammar parser recurses; 100 000 overflow its stack

# What models write around a call of a tool; in some vocabularies these are control tokens.
CALL_MARKS = frozenset(
    [b"<tool_call>", b"</tool_call>", b"<|python_tag|>", b"[TOOL_CALLS]", b"[CALL_ID]", b"[ARGS]"]
)

Chunk = dict[str, Any]


class InvalidGrammarError(ValueError):
    """A grammar, or the grammar made from a JSON schema, that llama.cpp can't use."""


class OtherModelError(Exception):
    """A request for a model that this server is not; the message names the one that it is."""


def apply(model_name: str | None = None) -> None:
    """Applies all patches, once; a model without a name answers to every name."""
    llama_cpp = module("llama_cpp")
    if llama_cpp.__version__ != EXPECTED_VERSION:
        print(
            f"llamakit_server.launch: llama-cpp-python is {llama_cpp.__version__}, "
            f"its patches were written for {EXPECTED_VERSION}",
            file=sys.stderr,
        )
    guard_grammars()
    escape_schema_literals()
    forbid_control_characters()
    guard_token_ids()
    add_logit_biases()
    accept_typical_p()
    if model_name:
        refuse_other_models(model_name)
    count_tokens()
    finish_streams()
    render_calls()
    refuse_long_embeddings()
    hide_inputs()
    patch_server()


def module(name: str) -> Any:
    """Imports a module as something whose attributes may be replaced."""
    return importlib.import_module(name)


def guard_grammars() -> None:
    """A grammar that doesn't parse yields a null sampler, and using that is a segmentation fault.

    llama.cpp's own server checks for it (ggml-org/llama.cpp#3878); the Python binding does not.
    """
    internals, llama_cpp = module("llama_cpp._internals"), module("llama_cpp.llama_cpp")
    suppress_output = module("llama_cpp._utils").suppress_stdout_stderr

    def add_grammar(self: Any, model: Any, grammar: Any) -> None:
        text: str = grammar._grammar
        if len(text) > MAX_GRAMMAR_CHARACTERS or text.count("(") > MAX_GRAMMAR_GROUPS:
            raise InvalidGrammarError("the grammar is too large")
        # The parser prints a grammar that it refuses, and with it what the user sent.
        with suppress_output(disable=False):
            sampler = llama_cpp.llama_sampler_init_grammar(
                model.vocab, text.encode(), grammar._root.encode()
            )
        if not sampler:
            raise InvalidGrammarError("the grammar does not parse")
        llama_cpp.llama_sampler_chain_add(self.sampler, sampler)

    internals.LlamaSampler.add_grammar = add_grammar


def escape_schema_literals() -> None:
    r"""Property names and enum values lose their backslashes on the way from JSON to grammar.

    A name with a quote then makes a grammar that doesn't parse, and ``\u0000`` one that aborts.
    """
    grammar = module("llama_cpp.llama_grammar")
    escapes = {"\r": "\\r", "\n": "\\n", '"': '\\"', "\\": "\\\\"}

    def format_literal(_self: Any, literal: str) -> str:
        return '"' + re.sub(r'[\r\n"\\]', lambda match: escapes[match[0]], literal) + '"'

    grammar.SchemaConverter._format_literal = format_literal


def forbid_control_characters() -> None:
    """Under a JSON schema, strings may hold raw line breaks and tabs, so the answer isn't JSON.

    The content is what llama.cpp's own converter allows: no control characters, and JSON's escapes.
    """
    char = module("llama_cpp.llama_grammar").PRIMITIVE_RULES["char"]
    char.content = r'[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})'


def guard_token_ids() -> None:
    """A token id outside the vocabulary makes llama.cpp throw across C, which aborts the process.

    The pieces are kept as well: the server asks for the whole answer's text after every token, and
    looking each one up again makes long answers quadratically slow. Pieces over 32 bytes are no
    longer dropped (abetlen/llama-cpp-python#2362). Control tokens that mark a call of a tool are
    text, for without them nobody could tell the call from an answer.
    """
    internals, llama_cpp = module("llama_cpp._internals"), module("llama_cpp.llama_cpp")

    def piece(model: Any, token: int, special: bool) -> bytes:
        size = 32
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(model.vocab, token, buffer, size, 0, special)
            if length == 0 and not special:
                mark = piece(model, token, special=True)
                return mark if mark in CALL_MARKS else b""
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def detokenize(self: Any, tokens: list[int], special: bool = False) -> bytes:
        known: dict[tuple[int, bool], bytes] = self.__dict__.setdefault("_llamakit_pieces", {})
        text = bytearray()
        for token in tokens:
            found = known.get((token, special))
            if found is None:
                if not 0 <= token < self.n_vocab():
                    raise ValueError("token id out of range")
                found = known[token, special] = piece(self, token, special)
            text += found
        if tokens and tokens[0] == self.token_bos() and text[:1] == b" ":
            del text[0]
        return bytes(text)

    internals.LlamaModel.detokenize = detokenize


def add_logit_biases() -> None:
    """A bias for a token id outside the vocabulary raises in a callback that C has called.

    That is a traceback in the log for every token, and the biases after it do nothing. OpenAI's ids
    mean nothing in another vocabulary, so those that can't be meant are dropped.
    """
    model_class = module("llama_cpp").Llama
    create = model_class._create_completion

    @functools.wraps(create)
    def biased(self: Any, *args: Any, logit_bias: Any = None, **kwargs: Any) -> Any:
        if logit_bias is not None:
            ids = range(self.n_vocab())
            logit_bias = {token: bias for token, bias in logit_bias.items() if int(token) in ids}
        return create(self, *args, logit_bias=logit_bias, **kwargs)

    model_class._create_completion = biased


def accept_typical_p() -> None:
    """``typical_p`` works in llama-cpp-python but is missing from the server's request classes."""
    types, pydantic = module("llama_cpp.server.types"), module("pydantic")
    for name in ("CreateCompletionRequest", "CreateChatCompletionRequest"):
        fields: dict[str, Any] = {"typical_p": (float, pydantic.Field(default=1.0, ge=0.0, le=1.0))}
        setattr(types, name, pydantic.create_model(name, __base__=getattr(types, name), **fields))


def refuse_other_models(own: str) -> None:
    """A name that the server doesn't know gets its only model, and a stale route a wrong answer.

    A validator raises it, for what follows in a stream is past the status; as it is no ValueError,
    pydantic and FastAPI let it through to ``error_message_wrapper``.
    """
    types, pydantic = module("llama_cpp.server.types"), module("pydantic")

    def check(name: str | None) -> str | None:
        if name not in (None, own):
            raise OtherModelError(f"This server has the model {own} and no other.")
        return name

    validators = {"own_model": pydantic.field_validator("model")(check)}
    for kind in ("CreateCompletion", "CreateChatCompletion", "CreateEmbedding"):
        base = getattr(types, f"{kind}Request")
        narrowed = pydantic.create_model(f"{kind}Request", __base__=base, __validators__=validators)
        setattr(types, f"{kind}Request", narrowed)


def count_tokens() -> None:
    """Keeps the exact token counts of the running generation, which streams do not tell.

    The server runs one generation at a time, so that one attribute of the model is enough.
    """
    model_class, llama_cpp = module("llama_cpp").Llama, module("llama_cpp.llama_cpp")
    generate = model_class.generate

    @functools.wraps(generate)
    def counting(self: Any, tokens: Any, *args: Any, **kwargs: Any) -> Generator[int, Any, None]:
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 0}
        self._llamakit_usage = usage
        for token in generate(self, tokens, *args, **kwargs):
            if not llama_cpp.llama_vocab_is_eog(self._model.vocab, token):
                usage["completion_tokens"] += 1
            yield token

    model_class.generate = counting


def finish_streams() -> None:
    """Ends every stream with its usage, or with an error event where the server says nothing.

    An exception after the headers (a prompt beyond the context, a template that fails) leaves an
    empty 200 otherwise. Neither the text of the error nor any input gets into the event or the log.
    """
    model_class = module("llama_cpp").Llama

    def finishing(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            def start() -> Any:
                refuse_minimum_under_grammar(kwargs)
                return original(self, *args, **kwargs)

            return stream_to_the_end(self, start) if kwargs.get("stream") else start()

        return method

    model_class.create_chat_completion = finishing(model_class.create_chat_completion)
    model_class.__call__ = finishing(model_class.__call__)


def stream_to_the_end(model: Any, start: Callable[[], Iterator[Chunk]]) -> Iterator[Chunk]:
    """Yields the chunks of a stream, then one chunk with its usage or one with its error."""
    last: Chunk = {}
    try:
        for chunk in start():
            last = chunk
            yield chunk
    except Exception as error:
        print(f"a stream failed: {type(error).__name__}", file=sys.stderr, flush=True)
        yield {"error": error_event(error)}
        return
    usage = dict(model._llamakit_usage)
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    yield {**last, "choices": [], "usage": usage}


def error_event(error: Exception) -> dict[str, Any]:
    """The code of an error, and for a prompt beyond the context the numbers (tokens)."""
    overflow = re.match(r"Requested tokens \((\d+)\) exceed context window of (\d+)", str(error))
    if overflow:
        return {
            "code": "context_length_exceeded",
            "prompt_tokens": int(overflow[1]),
            "n_ctx": int(overflow[2]),
        }
    if isinstance(error, InvalidGrammarError):
        return {"code": "invalid_grammar"}
    if type(error).__module__.startswith("jinja2"):
        return {"code": "template_failed"}
    return {"code": "generation_failed"}


def refuse_minimum_under_grammar(request: Mapping[str, Any]) -> None:
    """``min_tokens`` forbids the end token, which a grammar may have left as the only one: abort.

    The server passes ``min_tokens`` on as the one logits processor it ever makes.
    """
    constrained = (
        request.get("grammar")
        or request.get("response_format")
        or isinstance(request.get("tool_choice"), dict)
        or isinstance(request.get("function_call"), dict)
    )
    if request.get("logits_processor") and constrained:
        raise InvalidGrammarError("min_tokens can't be combined with a grammar")


def render_calls() -> None:
    """Chat templates want the arguments of a call as an object, and OpenAI's clients send a text.

    Most templates write them as JSON, which makes a text within a text of a text, and models then
    imitate that. What a template can't take ends as an error of jinja2, whatever it was.
    """
    formatter = module("llama_cpp.llama_chat_format").Jinja2ChatFormatter
    render, jinja2 = formatter.__call__, module("jinja2")

    @functools.wraps(render)
    def rendering(self: Any, *, messages: list[dict[str, Any]], **kwargs: Any) -> Any:
        decoded = [with_decoded_calls(message) for message in messages]
        # A template that joins the arguments to other text needs them as they came.
        for candidate in (decoded, messages):
            try:
                return render(self, messages=candidate, **kwargs)
            except TypeError:
                continue
            except Exception:
                break
        raise jinja2.TemplateRuntimeError("the template refuses the conversation")

    formatter.__call__ = rendering


def with_decoded_calls(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its calls as objects, where they are JSON."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(function["arguments"])
            if isinstance(arguments, dict):
                function["arguments"] = arguments
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def refuse_long_embeddings() -> None:
    """Input beyond the batch is cut silently, so that the vector stands for part of the text."""
    model_class = module("llama_cpp").Llama
    model_class.embed = functools.partialmethod(model_class.embed, truncate=False)


def hide_inputs() -> None:
    """An unexpected error is logged and answered with its text, which quotes what the user sent."""
    handler = module("llama_cpp.server.errors").RouteErrorHandler
    explain = handler.error_message_wrapper

    def error_message_wrapper(self: Any, error: Exception, body: Any = None) -> Any:
        # Of what llama-cpp-python says itself, only these texts have numbers and nothing else.
        if re.match(r"Requested tokens \(\d+\) exceed ", str(error)):
            return explain(self, error=error, body=body)
        if isinstance(error, OtherModelError):
            print(f"a request was refused: {error}", file=sys.stderr, flush=True)
            code, kind = "model_not_found", "invalid_request_error"
            return 404, {"message": str(error), "type": kind, "param": "model", "code": code}
        print(f"a request failed: {type(error).__name__}", file=sys.stderr, flush=True)
        code = error_event(error)["code"]
        return 500, {"message": code, "type": "internal_server_error", "param": None, "code": code}

    handler.error_message_wrapper = error_message_wrapper


def without_tracebacks(application: Any) -> Any:
    """Wraps the ASGI application: a traceback of uvicorn's would end in the error's text.

    The 500 has been sent by the application's own middleware when the error comes through here.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        try:
            await application(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            print(f"a request failed: {type(error).__name__}", file=sys.stderr, flush=True)

    return wrapped


def patch_server() -> None:
    """Changes what the HTTP application does with a request.

    - A stream whose reader stalls would block in its 10-place channel while it holds the model's
      lock: nobody else is served and SIGTERM is not obeyed. The channel is unbounded instead; what
      it can hold is limited by the context.
    - A request id that is not a UUID is an empty 400 (abetlen/llama-cpp-python#1337).
    """
    server = module("llama_cpp.server.app")
    anyio = server.anyio

    class Channels:
        """Stands in for the module ``anyio`` where the server makes its streams' channels."""

        def __getattr__(self, name: str) -> Any:
            return getattr(anyio, name)

        @staticmethod
        def create_memory_object_stream(_size: float) -> Any:
            return anyio.create_memory_object_stream(math.inf)

    server.anyio = Channels()
    server.RequestIdPlugin = functools.partial(server.RequestIdPlugin, validate=False)
