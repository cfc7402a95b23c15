"""One stream on a node whose phones follow many threads that are at rest, or run elsewhere."""

from __future__ import annotations

import asyncio

from bench.cluster import HEADERS, PATH, Meter, Node, Servers
from bench.load import Reader
from bench.nodefigures.streams import PIECES_PER_SECOND, question_of

PER_SOCKET = 1000
"""A connection follows 1,024 threads at most."""
AT_ONCE = 16
THREADS = """
INSERT INTO threads (user_id, thread_id, agent, title, epoch, head, read_position, created_at, updated_at)
SELECT 'bench', 'rest-' || n, 'claude', '', 1, 0, 0, 0, 0 FROM generate_series(1, COUNT) n
"""


async def measure(
    shared: Servers, a: Node, b: Node, count: int, seconds: float
) -> tuple[float, float, float, float, float, float]:
    """Shares of a core of node `b` and of Redis, the same per piece in µs, median and p99 of the latency in ms."""
    loop = asyncio.get_running_loop()
    shared.postgres.sql(THREADS.replace("COUNT", str(count - 1)), database=shared.database)
    readers = []
    for first in range(1, count, PER_SOCKET):
        _, reader = await loop.create_connection(lambda: Reader(b.host, PATH, HEADERS), "127.0.0.1", b.port)
        readers.append(reader)
        await reader.ready
        await _attach(reader, range(first, min(first + PER_SOCKET, count)))
    _, phone = await loop.create_connection(lambda: Reader(b.host, PATH, HEADERS), "127.0.0.1", b.port)
    await phone.ready
    phone.say(type="message", content=question_of(round((seconds + 2) * PIECES_PER_SECOND)), thread_id=f"talk-{count}")
    await phone.until(lambda: phone.pieces > PIECES_PER_SECOND // 2, 30)
    meter = Meter(shared, {"node": b})
    phone.pieces, phone.latencies = 0, []
    await asyncio.sleep(seconds)
    used, pieces, latencies = meter.used(), phone.pieces, sorted(phone.latencies)
    await phone.until(lambda: bool(phone.endings), 60)
    for reader in (*readers, phone):
        reader.close()
    return (
        used["node"] / seconds,
        used["Redis"] / seconds,
        used["node"] / pieces * 1e6,
        used["Redis"] / pieces * 1e6,
        latencies[len(latencies) // 2] * 1e3,
        latencies[len(latencies) * 99 // 100] * 1e3,
    )


async def _attach(reader: Reader, threads: range) -> None:
    for number, thread in enumerate(threads):
        await reader.until(lambda n=number: reader.attached > n - AT_ONCE)  # type: ignore[misc]
        reader.say(type="attach", thread_id=f"rest-{thread}", cursor="1:0")
    await reader.until(lambda: reader.attached == len(threads))
