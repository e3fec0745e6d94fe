"""Parameters of requests: what is accepted, what is made of it, what is refused and how."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import validate
from llamakit_proxy.errors import ApiError
from llamakit_proxy.routes import Route
from llamakit_proxy.validate.fields import Support
from support.prepared import ROUTE, chat, refused

LOGPROBS = Route(**{name: getattr(ROUTE, name) for name in ROUTE.__slots__} | {"logprobs": True})


def test_defaults_are_spelled_out() -> None:
    prepared = chat()
    document = dict(prepared.document)
    assert 0 <= document.pop("seed") < 2**32 - 1
    assert document == {
        "model": "tiny",
        "stream": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "max_tokens": 512,
        "messages": [{"role": "user", "content": "hello"}],
    }
    assert not prepared.stream
    assert chat().document["seed"] != document.get("seed", chat().document["seed"] + 1)


def test_everything_the_mission_names_reaches_the_backend() -> None:
    sent: dict[str, Any] = {
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "typical_p": 0.5,
        "stop": ["a", "b"],
        "max_tokens": 6,
        "presence_penalty": 0.7,
        "frequency_penalty": -0.8,
        "repeat_penalty": 1.2,
        "seed": 10,
        "logit_bias": {"11": 12},
    }
    document = chat(**sent).document
    assert {name: document[name] for name in sent} == sent


def test_nulls_are_left_out() -> None:
    nothing: dict[str, Any] = dict.fromkeys(validate.CHAT_FIELDS.keys() - {"model", "messages"})
    document = chat(**nothing).document
    assert None not in document.values()
    assert document["max_tokens"] == 512


def test_tokens() -> None:
    assert chat(max_completion_tokens=7).document["max_tokens"] == 7
    assert chat(max_completion_tokens=7, max_tokens=7).document["max_tokens"] == 7
    assert refused(max_completion_tokens=7, max_tokens=8).param == "max_tokens"
    for wrong in (0, -1, 513, 10**30, 1.5, True, "9"):
        assert refused(max_tokens=wrong).param == "max_tokens"


def test_seed() -> None:
    assert chat(seed=-1).document["seed"] == 2**32 - 2
    assert chat(seed=2**32 - 1).document["seed"] == 0
    assert chat(seed=0).document["seed"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", [1]),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", 10**40),
        ("min_p", -1),
        ("typical_p", 2),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repeat_penalty", 0),
        ("seed", 1.5),
        ("seed", 2**70),
        ("stop", ""),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stop", [1]),
        ("stop", {}),
        ("stop", "x" * 300),
        ("stream", "yes"),
        ("stream", 1),
        ("n", 9),
        ("n", 0),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": "x"}),
        ("logit_bias", {"\u0661": 1}),
        ("logit_bias", {str(2**31): 1}),
        ("logit_bias", {"9" * 50: 1}),
        ("logit_bias", {"9" * 5000: 1}),
        ("logit_bias", [1]),
        ("logprobs", True),
        ("top_logprobs", 1),
        ("stream_options", {"include_usage": True}),
        ("response_format", {"type": "xml"}),
        ("response_format", {}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", "json"),
        ("grammar", "root ::= ("),
        ("min_tokens", 3),
        ("logit_bias_type", "tokens"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("user", 3),
        ("metadata", []),
        ("tools", {}),
    ],
)
def test_values_that_are_refused(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert (error.param or "").split(".")[0].split("[")[0] == field
    assert error.type == "invalid_request_error"


@pytest.mark.parametrize(
    "field", ["tfs_z", "repetition_penalty", "n_discard", "api_base", "x" * 999]
)
def test_unknown_fields(field: str) -> None:
    error = refused(ROUTE, **{field: 1})
    assert error.code == "unknown_parameter"
    assert field[:40] in error.message
    assert len(error.message) < 200


def test_ignored_fields() -> None:
    ignored: dict[str, Any] = {
        "user": "someone",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "modalities": ["text"],
        "n": 1,
        "min_tokens": 0,
    }
    assert chat(**ignored).document.keys() == chat().document.keys()


def test_logprobs() -> None:
    assert chat(LOGPROBS, logprobs=True).document["top_logprobs"] == 0
    prepared = chat(LOGPROBS, logprobs=True, top_logprobs=20)
    assert prepared.document["top_logprobs"] == 20
    assert not prepared.style.plain
    assert refused(LOGPROBS, logprobs=True, top_logprobs=21).param == "top_logprobs"


def test_seeds_of_several_answers() -> None:
    prepared = chat(n=3, seed=2**32 - 3)
    documents = [prepared.document, *prepared.others]
    assert [document.pop("seed") for document in documents] == [2**32 - 3, 2**32 - 2, 0]
    assert documents[0] == documents[1] == documents[2]


def test_completions_of_several_prompts() -> None:
    body = {"model": "tiny", "prompt": ["x", "y"], "n": 2, "best_of": 2}
    prepared = validate.completion(body, ROUTE)
    documents = [prepared.document, *prepared.others]
    assert [document["prompt"] for document in documents] == ["x", "x", "y", "y"]
    assert prepared.prompts == 2


def test_response_formats() -> None:
    assert "response_format" not in chat(response_format={"type": "text"}).document
    document = chat(response_format={"type": "json_object"}).document
    assert document["response_format"] == {"type": "json_object"}
    schema = {"type": "object", "properties": {"a": {"type": "integer", "title": "A"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert chat(response_format=named).document["response_format"] == {
        "type": "json_object",
        "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
    }


@pytest.mark.parametrize(
    ("prompt", "good"),
    [
        ("x", True),
        (["x"], True),
        (["x", "y"], True),
        *((wrong, False) for wrong in ("", [], ["x", ""], [1, 2], [[1]], None, 3, ["x"] * 33)),
    ],
)
def test_prompts(prompt: Any, good: bool) -> None:
    body = {"model": "tiny", "prompt": prompt}
    if good:
        document = validate.completion(body, ROUTE).document
        assert (document["prompt"], document["max_tokens"]) == ("x", 16)
        return
    with pytest.raises(ApiError) as caught:
        validate.completion(body, ROUTE)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    "field",
    [
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 2},
        {"n": 2, "best_of": 3},
        {"n": 9, "best_of": 9},
        {"n": 8, "prompt": ["x"] * 5},
    ],
)
def test_completion_fields_that_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        validate.completion({"model": "tiny", "prompt": "x", **field}, ROUTE)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": ""},
        {"input": ["a", ""]},
        {"input": [1, 2]},
        {"input": [[1]]},
        {"input": {"a": 1}},
        {"input": ["x"] * 2049},
        {"input": "x", "dimensions": 3},
        {"input": "x", "encoding_format": "int8"},
        {},
    ],
)
def test_embeddings_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        validate.embedding({"model": "tiny", **fields})
    assert caught.value.status == 400


def test_tables_are_documentation() -> None:
    for fields in (validate.CHAT_FIELDS, validate.COMPLETION_FIELDS, validate.EMBEDDING_FIELDS):
        for name, field in fields.items():
            assert field.name == name
            assert field.support in get_args(Support)
            assert field.note.endswith((".", "`"))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "name", "function"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(validate.CHAT_FIELDS)), JSON_VALUES, max_size=4))
def test_anything_is_either_prepared_or_a_400(fields: dict[str, Any]) -> None:
    try:
        prepared = chat(LOGPROBS, **fields)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017
        error.encode()
        return
    json.dumps(prepared.document)
    assert prepared.document["stream"] is True
    assert 1 <= prepared.document["max_tokens"] <= 512
