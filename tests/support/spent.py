"""What users have spent, as the accounts of their limits in Postgres say it."""

from .proxy import Proxy


def spent(proxy: Proxy, kind: str) -> int:
    """What the accounts of this kind say is spent or in use, over all users of the proxy."""
    with proxy.admin() as admin:
        row = admin.execute(
            "SELECT coalesce(sum(amount - idle), 0) FROM limit_accounts,"
            " unnest(amounts, idles) AS e (amount, idle) WHERE kind = %s",
            (kind,),
        ).fetchone()
    assert row is not None
    return int(row[0])
