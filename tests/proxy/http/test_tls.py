"""The proxy behind a certificate: real handshakes with certificates that openssl made."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from support.backend import Backend
from support.certificates import locked_key, self_signed, signed_by_an_authority
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, new_proxy


@pytest.fixture
def prepared(postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Proxy]:
    """A proxy that is to speak TLS, without a certificate yet."""
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    proxy = new_proxy(postgres, tmp_path, models, LLAMA_PROXY_TLS="1")
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def own(prepared: Proxy, tmp_path: Path) -> Proxy:
    """Running, with a certificate that it signed itself."""
    self_signed(tmp_path).install(prepared.settings.secrets_dir)
    prepared.start()
    return prepared


def command(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llamakit_proxy", *arguments],
        env=proxy.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_openais_client_over_tls(own: Proxy, tmp_path: Path) -> None:
    trust = ssl.create_default_context(cafile=str(tmp_path / "localhost.crt"))
    async with openai.AsyncOpenAI(
        base_url=f"https://localhost:{own.port}/v1",
        api_key=own.new_key(),
        http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
    ) as client:
        assert [model.id async for model in await client.models.list()] == ["script"]
        stream = await client.chat.completions.create(
            model="script",
            max_tokens=2000,
            messages=[{"role": "user", "content": "LOOP"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2000


def test_who_does_not_know_the_certificate_does_not_trust_it(own: Proxy) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{own.port}/healthz", trust_env=False)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions(own: Proxy, version: ssl.TLSVersion, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(own.settings.secrets_dir / "tls_certificate"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", own.port), timeout=10) as plain:
        if not accepted:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain, server_hostname="localhost")
            return
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.version() == version.name.replace("v1_", "v1.")
            assert secure.selected_alpn_protocol() is None


def test_plain_http_is_not_answered_and_harms_nobody(own: Proxy) -> None:
    for sent in (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", b"", b"\x16\x03\x01\xff"):
        with socket.create_connection(("127.0.0.1", own.port), timeout=15) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            received = plain.recv(4096)
            assert b"HTTP/" not in received
            assert b"llamakit" not in received
    assert own.page("/healthz").status_code == 200
    assert "Traceback" not in own.log.read_text()


def test_who_never_shakes_hands_is_let_go(own: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", own.port), timeout=15) as silent:
        assert silent.recv(1) == b""


def test_verify_trusts_this_certificate_and_no_other(own: Proxy, tmp_path: Path) -> None:
    proof = command(own, "verify")
    assert (proof.returncode, proof.stderr) == (0, "")
    assert "ok  script answers" in proof.stdout
    # The proxy still shows the one it was started with.
    self_signed(tmp_path, "other").install(own.settings.secrets_dir)
    proof = command(own, "verify")
    assert proof.returncode == 1
    assert "shows another certificate than" in proof.stderr


async def test_a_new_certificate_comes_with_a_reload(own: Proxy, tmp_path: Path) -> None:
    async with own.client(own.new_key()) as kept:
        assert (await kept.get("/v1/models")).status_code == 200
        new = self_signed(tmp_path, "renewed")
        new.install(own.settings.secrets_dir)
        assert own.process is not None
        own.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(own.wait_for_log, "finishes what it has begun")
        last = await kept.get("/v1/models")
        assert (last.status_code, last.headers["connection"]) == (200, "close")
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", own.port))
    assert shown.split() == new.certificate.read_text().split()


def test_a_chain_is_shown_whole(prepared: Proxy, tmp_path: Path) -> None:
    pair, authority = signed_by_an_authority(tmp_path)
    pair.install(prepared.settings.secrets_dir)
    prepared.start()
    trust = ssl.create_default_context(cafile=str(authority))
    url = f"https://localhost:{prepared.port}/healthz"
    assert httpx.get(url, verify=trust, trust_env=False).status_code == 200
    assert command(prepared, "verify").returncode == 0


def test_what_can_not_be_used_is_told(prepared: Proxy, tmp_path: Path) -> None:
    secrets = prepared.settings.secrets_dir
    pair, other = self_signed(tmp_path), self_signed(tmp_path, "other")

    def refused(text: str, *by: str) -> None:
        for word in by or ("check-config",):
            run = command(prepared, word)
            assert run.returncode == 2, run.stderr
            assert text in run.stderr
            assert len(run.stderr.splitlines()) == 1
            assert "PRIVATE" not in run.stderr.replace("-----BEGIN PRIVATE KEY-----", "")

    refused("the secret tls_certificate is not in")
    pair.install(secrets)
    assert command(prepared, "check-config").returncode == 0
    (secrets / "tls_key").write_bytes(other.key.read_bytes())
    refused("does not belong to the certificate", "check-config", "serve")
    (secrets / "tls_key").write_bytes(locked_key(pair).read_bytes())
    refused("is locked with a passphrase; give it without one")
    (secrets / "tls_key").write_text("not a key")
    refused("expected PEM text in both")
    (secrets / "tls_key").unlink()
    refused("the secret tls_key is not in")
    pair.install(secrets)
    (secrets / "tls_certificate").write_text("not a certificate")
    refused("holds no certificate; expected PEM text")
    (secrets / "tls_certificate").unlink()
    (secrets / "tls_certificate").mkdir()
    refused("LLAMA_PROXY_TLS=1 needs it")
    (secrets / "tls_certificate").rmdir()
