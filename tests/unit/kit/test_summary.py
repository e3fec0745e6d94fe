"""What a start tells at its end."""

from __future__ import annotations

from typing import Any

from llamakit.services.summary import summarize

ROUTE: dict[str, Any] = {"id": "m", "aliases": ["m.gguf"], "kind": "chat", "owned_by": "llamakit"}


def test_clients_are_told_which_certificate_to_trust() -> None:
    plain = summarize("http://127.0.0.1:8001", [ROUTE])
    assert plain.count("curl http://127.0.0.1:8001/v1/") == 2
    trusted = summarize("https://127.0.0.1:8001", [ROUTE], "/kit/runtime/tls_certificate.pem")
    wanted = "curl --cacert /kit/runtime/tls_certificate.pem https://127.0.0.1:8001/v1/"
    assert trusted.count(wanted) == 2
