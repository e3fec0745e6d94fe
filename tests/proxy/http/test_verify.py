"""``llamakit-proxy verify``, the proof of a deployment."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from llamakit_proxy.verify import USERNAME
from support.backend import Backend
from support.proxy import Proxy


def test_hosts_that_share_a_database_are_proven_at_once(own: Proxy, chat_backend: Backend) -> None:
    own.route("script", chat_backend.url, n_ctx=8192)

    def prove() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llamakit_proxy", "verify"],
            env=own.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    with ThreadPoolExecutor(3) as threads:
        proofs = [threads.submit(prove) for _ in range(3)]
    for proof in proofs:
        done = proof.result()
        assert done.returncode == 0, done.stderr
        assert "script answers" in done.stdout
    with own.admin() as admin:
        left = admin.execute("SELECT count(*) FROM users WHERE username = %s", (USERNAME,))
        assert left.fetchone() == (0,)
