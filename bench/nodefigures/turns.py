"""CPU and latency of short turns, one after the other on every phone."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass

from bench.cluster import HEADERS, PATH, Meter, Node, Servers
from bench.load import Talker

PIECES = 5
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    per_second: float
    cpu_ms: dict[str, float]
    """Per turn, by process."""
    accepted: tuple[float, float]
    """From the message to `accepted`: median and p99, in ms."""
    done: tuple[float, float]
    """From the message to `done`."""
    commands: float
    """Of Redis, per turn; those of scripts among them."""
    wal: float
    """Bytes that Postgres logged per turn."""


async def measure(shared: Servers, nodes: Mapping[str, Node], front: Node, phones: int, seconds: float) -> Figures:
    loop = asyncio.get_running_loop()
    question = json.dumps({"pieces": PIECES, "interval": 0})
    talkers = [
        (await loop.create_connection(lambda: Talker(front.host, PATH, HEADERS, question), "127.0.0.1", front.port))[1]
        for _ in range(phones)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    gc.disable()
    for talker in talkers:
        talker.accepted.clear()
        talker.first.clear()
        talker.done.clear()
    calls, wal = _calls(shared), shared.wal()
    meter, begun = Meter(shared, nodes), loop.time()
    await asyncio.sleep(seconds)
    used, elapsed = meter.used(), loop.time() - begun
    calls, wal = _calls(shared) - calls, shared.wal() - wal
    accepted = [one for talker in talkers for one in talker.accepted]
    done = [one for talker in talkers for one in talker.done]
    gc.enable()
    for talker in talkers:
        talker.stop()
    await asyncio.wait_for(asyncio.gather(*(talker.finished for talker in talkers)), 30)
    count = len(done)
    cpu_ms = {name: one / count * 1e3 for name, one in used.items()}
    if len(nodes) == 1:  # it uses neither
        del cpu_ms["Redis"], cpu_ms["Postgres"]
        calls = wal = 0
    return Figures(
        per_second=count / elapsed,
        cpu_ms=cpu_ms,
        accepted=_of(accepted),
        done=_of(done),
        commands=calls / count,
        wal=wal / count,
    )


def _calls(shared: Servers) -> int:
    return sum(count for name, count in shared.redis_calls().items() if name not in ("info", "ping"))


def _of(seconds: list[float]) -> tuple[float, float]:
    """Median and p99, in ms."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1e3, ordered[len(ordered) * 99 // 100] * 1e3
