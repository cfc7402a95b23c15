"""How long it takes until others have ended what a dead node ran."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

from bench.cluster import HEADERS, PATH, Servers
from bench.load import Reader
from bench.nodefigures.streams import question_of


async def measure(shared: Servers, lease: float) -> list[float]:
    """Seconds from `kill -9` until the phone on another node is shown the interruption."""
    loop = asyncio.get_running_loop()
    with shared.node(LEASE_SECONDS=str(lease)) as dying, shared.node(LEASE_SECONDS=str(lease)) as other:
        near, far = [
            (await loop.create_connection(lambda n=node: Reader(n.host, PATH, HEADERS), "127.0.0.1", node.port))[1]  # type: ignore[misc]
            for node in (dying, other)
        ]
        await asyncio.gather(near.ready, far.ready)
        near.say(type="message", content=question_of(10_000), thread_id="talk")
        await near.until(lambda: near.pieces > 10, 10)
        far.say(type="attach", thread_id="talk")
        await far.until(lambda: far.pieces > 10, 10)
        await asyncio.sleep(random.uniform(0, lease / 4))  # anywhere between two heartbeats
        far.endings.clear()
        os.kill(dying.pid, signal.SIGKILL)
        killed = time.monotonic_ns()
        await far.until(lambda: bool(far.endings), lease + 30)
        (ending,) = far.endings.values()
        far.close()
    return [(ending[1] - killed) / 1e9]
