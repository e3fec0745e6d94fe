"""Many users with keys: how long the start takes, how long a request, what memory.

A thousand here, which shows that it works. By hand ``LLAMAKIT_MANY_USERS=100000``, with ``-s`` for
the figures; they are compared on an idle machine, by reading them.
"""

import asyncio
import hashlib
import os
import random
import re
import statistics
import time
from pathlib import Path

from llamakit_proxy import keys
from support.backend import free_port
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, new_proxy

COUNT = int(os.environ.get("LLAMAKIT_MANY_USERS", "1000"))
TIMED = 3000 if COUNT > 10_000 else 200
CONNECTIONS = 16
PIPELINED = 50
LENGTH = re.compile(rb"content-length: (\d+)")


async def test_many_users(postgres: Postgres, tmp_path: Path) -> None:
    lonely, crowded = (
        new_proxy(
            postgres,
            tmp_path_of(tmp_path, name),
            [model_entry("nobody", f"http://127.0.0.1:{free_port()}")],
        )
        for name in ("lonely", "crowded")
    )
    one = lonely.new_key()
    many = await asyncio.to_thread(add_users, crowded, COUNT)
    starts = {}
    try:
        for name, proxy in (("lonely", lonely), ("crowded", crowded)):
            begin = time.monotonic()
            await asyncio.to_thread(proxy.start)
            starts[name] = time.monotonic() - begin
        begin = time.monotonic()
        await asyncio.gather(*(ask_all(crowded, many[n::CONNECTIONS]) for n in range(CONNECTIONS)))
        filled = time.monotonic() - begin
        chosen = random.choices(many, k=TIMED)
        alone, among = await side_by_side(lonely, one, crowded, chosen)
        memory = {
            name: proxy.workers()[0].memory_info().rss >> 20
            for name, proxy in (("lonely", lonely), ("crowded", crowded))
        }
        # A change of all of them at once is taken in while requests go on.
        with crowded.admin() as admin:
            admin.execute("UPDATE users SET rate_limit = 1000000")
        begin = time.monotonic()
        while b"x-ratelimit-limit-requests" not in await ask(crowded, many[-1]):
            assert time.monotonic() - begin < 5
        changed = time.monotonic() - begin
    finally:
        lonely.stop()
        crowded.stop()
    middle = [statistics.median(times) * 1000 for times in (alone, among)]
    print(
        f"{COUNT} users: start {starts['crowded']:.2f} s (one user: {starts['lonely']:.2f} s); "
        f"each asked once: {filled:.1f} s, {COUNT / filled:.0f} requests/s; "
        f"a request {middle[1]:.3f} ms (one user: {middle[0]:.3f} ms, "
        f"{(middle[1] / middle[0] - 1) * 100:+.1f} %); "
        f"memory {memory['crowded']} MB (one user: {memory['lonely']} MB); "
        f"a change of all is seen after {changed:.2f} s"
    )
    assert memory["crowded"] - memory["lonely"] < 40 + COUNT // 250


def tmp_path_of(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def add_users(proxy: Proxy, count: int) -> list[str]:
    """So many users with a key each; the keys. Not random enough for anything but this."""
    draw = random.Random(count)
    made = {
        "".join(draw.choices(keys.ALPHABET, k=keys.PUBLIC_ID_LENGTH)): "".join(
            draw.choices(keys.ALPHABET, k=keys.SECRET_LENGTH)
        )
        for _ in range(count)
    }
    texts = [f"{keys.PREFIX}{public_id}-{secret}" for public_id, secret in made.items()]
    with proxy.admin() as admin, admin.transaction():
        admin.execute("SET LOCAL statement_timeout = 0")
        admin.execute(
            "INSERT INTO users (username, rate_limit)"
            " SELECT 'user' || n, 0 FROM generate_series(1, %s) AS n",
            (len(texts),),
        )
        admin.execute("CREATE TEMPORARY TABLE made (n integer, public_id text, sha256 bytea)")
        with admin.cursor().copy("COPY made FROM STDIN") as copy:
            for number, (public_id, text) in enumerate(zip(made, texts, strict=True), 1):
                copy.write_row((number, public_id, hashlib.sha256(text.encode()).digest()))
        admin.execute(
            "INSERT INTO api_keys (public_id, user_id, sha256) SELECT public_id, users.id, sha256"
            " FROM made JOIN users ON username = 'user' || n"
        )
    with proxy.admin() as admin:
        admin.execute("ANALYZE")
    return texts


def request(key: str) -> bytes:
    return f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode()


async def read(reader: asyncio.StreamReader) -> bytes:
    """One answer, which has to be a good one; its head."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = LENGTH.search(head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return head


async def ask(proxy: Proxy, key: str) -> bytes:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(request(key))
    head = await read(reader)
    writer.close()
    return head


async def ask_all(proxy: Proxy, texts: list[str]) -> None:
    """A request of each key over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for start in range(0, len(texts), PIPELINED):
        part = texts[start : start + PIPELINED]
        writer.write(b"".join(map(request, part)))
        for _ in part:
            await read(reader)
    writer.close()


async def side_by_side(
    lonely: Proxy, one: str, crowded: Proxy, many: list[str]
) -> tuple[list[float], list[float]]:
    """Seconds of requests to the one and the other, in turns: what else the machine does harms
    both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    streams = [
        await asyncio.open_connection("127.0.0.1", proxy.port) for proxy in (lonely, crowded)
    ]
    for key in many:
        for (reader, writer), text, seen in zip(streams, (one, key), times, strict=True):
            begin = time.perf_counter()
            writer.write(request(text))
            await read(reader)
            seen.append(time.perf_counter() - begin)
    for _, writer in streams:
        writer.close()
    return times
