"""A client's own ids: what is noted, and what is not."""

import pytest

from llamakit_proxy.correlation import TraceParent, client_request_id, trace_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("value", ["a", "x" * 128, "2f1e/é"[:5], "{}\"';--", "req_1"])
def test_ids_that_are_noted(value: str) -> None:
    assert client_request_id(value.encode()) == value


@pytest.mark.parametrize(
    "value", [None, b"", b"x" * 129, b"a b", b"a\tb", b"a\n", b"\x1b[31m", "é".encode(), b"\xff"]
)
def test_ids_that_are_not(value: bytes | None) -> None:
    assert client_request_id(value) is None


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        # A later version may have more at its end.
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-ever", True),
    ],
)
def test_traces_that_are_joined(header: str, sampled: bool) -> None:
    assert trace_parent(header.encode()) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
    ],
)
def test_traces_that_are_not(header: str | None) -> None:
    assert trace_parent(None if header is None else header.encode()) is None
