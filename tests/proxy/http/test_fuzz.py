"""Anything at all, over HTTP, at a real proxy with a real model server behind it.

Twenty seconds of it here; ``LLAMAKIT_FUZZ_SECONDS=600`` for more. What is drawn are requests that
are nearly right, because those get furthest: fields of the tables the proxy itself has, values of
all kinds, and now and then a body, a header or a path that is wrong from the start.
"""

import itertools
import json
import os
import re
import time
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamakit_proxy import validate
from llamakit_proxy.app import _TARGETS
from support.proxy import Proxy

SECONDS = float(os.environ.get("LLAMAKIT_FUZZ_SECONDS", "20"))
SLOWEST_SECONDS = 60
BATCH = 25
CANARY = re.compile(r"canary-\d{8}")
REFUSALS = {400, 401, 403, 404, 405, 408, 413, 415, 429, 431}

_counter = itertools.count(10_000_000)

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.floats(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.sampled_from([2**31, 2**32 - 1, 2**63, -(2**63), 2**64, 10**400, 1e308, 5e-324, -0.0]),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "hello", "EMPTY", "LOOP", "a\x00b", "</s>", "<|im_start|>system",
         "'; DROP TABLE users", "{{ 7*7 }}", "${jndi:ldap://x}", "%s%n", "../../etc/passwd",
         "\u2028", "\ud800", "\U0001f600",
         "script", "embed", "auto", "none", "required", "text", "json_object", "x" * 5000]
    ),
    st.text(max_size=30),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
ROLES = st.one_of(st.sampled_from(["system", "user", "assistant", "tool", "developer"]), TEXTS)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal"]), "text": TEXTS},
    optional={"image_url": VALUES, "refusal": TEXTS},
)
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES, "content": st.one_of(TEXTS, st.lists(PARTS, max_size=3), VALUES)},
    optional={"name": TEXTS, "tool_call_id": TEXTS, "tool_calls": VALUES},
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer"}, {"enum": ["a", 1, None]}, {"const": 1.5}, {},
         {"type": "string", "pattern": "^[a-z]{1,4}$"}, {"type": "string", "pattern": "\\d"},
         {"type": "string", "maxLength": 5}, {"$ref": "#/$defs/x"}, {"type": ["string", "null"]},
         {"type": "string", "format": "date"}, {"not": {}}, True]
    ),
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "maxItems": 2}, inner),
        st.builds(
            lambda members: {"type": "object", "properties": members, "required": list(members)},
            st.dictionaries(st.sampled_from(["a", "b", "naïve", 'q"']), inner, max_size=3),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    ),
    max_leaves=5,
)  # fmt: skip
FORMATS = st.builds(
    lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, SCHEMAS
)
TOOLS = st.builds(
    lambda schema: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        "tool_choice": "required",
    },
    SCHEMAS,
)
FIELDS = {
    "/v1/chat/completions": sorted(validate.CHAT_FIELDS),
    "/v1/completions": sorted(validate.COMPLETION_FIELDS),
    "/v1/embeddings": sorted(validate.EMBEDDING_FIELDS),
}


@st.composite
def bodies(draw: st.DrawFn, path: str) -> dict[str, Any]:
    """A request that would be right, with some of it replaced."""
    usual: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
        "/v1/completions": {"prompt": "hello"},
        "/v1/embeddings": {"model": "embed", "input": ["hello", "you"]},
    }
    body = {"model": "script", "max_tokens": 5, **usual.get(path, {})}
    if path == "/v1/embeddings":
        del body["max_tokens"]
    if "messages" in body and draw(st.booleans()):
        body["messages"] = draw(st.lists(MESSAGES, max_size=4))
    if "messages" in body and draw(st.integers(0, 3)) == 0:
        body |= draw(st.one_of(TOOLS, st.builds(lambda one: {"response_format": one}, FORMATS)))
    if draw(st.booleans()):
        body["stream"] = draw(st.booleans())
    names = st.sampled_from(FIELDS.get(path, ["model", "input"]))
    body |= draw(st.dictionaries(names, st.one_of(NUMBERS, VALUES), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        body |= draw(st.dictionaries(TEXTS, VALUES, max_size=2))
    if isinstance(body.get("max_tokens"), int) and draw(st.integers(0, 5)):
        body["max_tokens"] = draw(st.integers(1, 8))
    return body


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], bytes]:
    """Method, path, headers, body."""
    path = draw(
        st.sampled_from([*FIELDS, *FIELDS, *FIELDS, *sorted(_TARGETS), "/v1/models/script", "/x"])
    )
    if draw(st.integers(0, 19)) == 0:
        path = "/" + draw(st.text(st.characters(codec="ascii", categories=["L", "N", "P"])))
    method = "POST" if path in FIELDS else "GET"
    if draw(st.integers(0, 19)) == 0:
        method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]))
    headers = {"Content-Type": "application/json"}
    if draw(st.integers(0, 19)) == 0:
        names = st.sampled_from(
            ["Content-Type", "Content-Encoding", "Accept", "X-Request-ID", "X-Forwarded-For", "Te",
             "Expect", "Connection", "Authorization", "Range", "Origin", "Accept-Encoding"]
        )  # fmt: skip
        texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
        headers |= draw(st.dictionaries(names, texts, max_size=3))
    document = draw(bodies(path))
    # Half a surrogate pair goes as an escape: that is how it can arrive at all.
    body = json.dumps(document).encode()
    if draw(st.integers(0, 19)) == 0:
        cut = draw(st.integers(0, len(body)))
        body = body[:cut] + draw(st.binary(max_size=8)) + body[cut + draw(st.integers(0, 3)) :]
    return method, path, headers, body


def test_whatever_comes_is_answered_properly(proxy: Proxy) -> None:
    """No 500, no 502, nothing but answers and error objects; no word of another's request; and in
    the end nobody holds a place."""
    keys = [proxy.new_key("fuzz", scopes=["inference", "admin"]) for _ in range(2)]
    deadline = time.monotonic() + SECONDS
    done: dict[int, int] = {}
    with httpx.Client(base_url=proxy.url, timeout=SLOWEST_SECONDS, trust_env=False) as client:

        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests(), st.integers(0, len(keys) - 1))
        def ask(request: tuple[str, str, dict[str, str], bytes], who: int) -> None:
            method, path, headers, body = request
            canary = f"canary-{next(_counter)}"
            body = body.replace(b"hello", f"hello {canary}".encode())
            headers = {"Authorization": f"Bearer {keys[who]}", **headers}
            # As it is, and not as httpx reads it: what begins with two slashes is a path, too.
            target = {"target": path.encode()}
            response = client.request(method, "/", headers=headers, content=body, extensions=target)
            check(response, method)
            assert set(CANARY.findall(response.text)) <= {canary}
            assert not any(key in response.text for key in keys)
            done[response.status_code] = done.get(response.status_code, 0) + 1

        # hypothesis counts examples, not seconds; each batch begins anew at random.
        while time.monotonic() < deadline:
            ask()
        assert done.get(200, 0) > SECONDS / 4
        assert done.get(400, 0) > SECONDS / 4
        load = client.get("/admin/load", headers={"Authorization": f"Bearer {keys[0]}"}).json()
        assert load["in_flight"] == 1
        for model in load["models"].values():
            assert (model["running"], model["queued"], model["requests"]) == (0, 0, [])
        for model in ("script", "embed"):
            assert proxy.metric("llamakit_running", model=model) == 0
            assert proxy.metric("llamakit_queued", model=model) == 0
    print(f"answers by status: {dict(sorted(done.items()))}")


def check(response: httpx.Response, method: str) -> None:
    """That an answer is one that the API promises."""
    text = response.text
    if method == "HEAD":
        assert not text
    elif response.status_code == 200 and response.headers["content-type"].startswith("text/event"):
        *events, last = text.removesuffix("\n\n").split("\n\n")
        assert events or last
        assert last == "data: [DONE]", text[-300:]
        for event in events:
            if not event.startswith(":"):
                assert "choices" in json.loads(event.removeprefix("data: "))
    elif response.status_code == 200:
        if method != "OPTIONS":
            document = json.loads(text)
            assert document.get("object") or "models" in document or "openapi" in document
    else:
        assert response.status_code in REFUSALS, f"{response.status_code} {text[:500]}"
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["code"]
