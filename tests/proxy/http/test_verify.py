"""``llamakit-proxy verify``, the proof of a deployment."""

import subprocess
import sys

from llamakit_proxy.verify import USERNAME
from support.proxy import Proxy


def test_hosts_that_share_a_database_are_proven_at_once(proxy: Proxy) -> None:
    proofs = [
        subprocess.Popen(
            [sys.executable, "-m", "llamakit_proxy", "verify"],
            env=proxy.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    for proof in proofs:
        said, _ = proof.communicate(timeout=120)
        assert proof.returncode == 0, said
        assert "script answers" in said
    with proxy.admin() as admin:
        left = admin.execute("SELECT count(*) FROM users WHERE username = %s", (USERNAME,))
        assert left.fetchone() == (0,)
