"""The statements and commands of one turn, counted by name."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter

from bench.cluster import HEADERS, PATH, Node, Servers
from bench.load import Talker

TURNS = 20
REST_SECONDS = 10.0
_STATEMENT = re.compile(r"(?:execute [^:]*|statement): (\w+(?: INTO| FROM)?)")


def listed(counts: dict[str, float]) -> str:
    """Those that are there at least now and then, the most frequent first."""
    shown = sorted(((count, name) for name, count in counts.items() if count >= 0.05), reverse=True)
    return f"{sum(counts.values()):.1f} in all: " + ", ".join(f"{name} {count:.1f}" for count, name in shown)


def _counts(shared: Servers) -> Counter[str]:
    counts = Counter({f"Redis {name}": count for name, count in shared.redis_calls().items() if name != "info"})
    counts.update(f"Postgres {found[1].upper()}" for found in _STATEMENT.finditer(shared.postgres.log))
    return counts


async def measure(shared: Servers, front: Node) -> tuple[dict[str, float], dict[str, float]]:
    """Per second at rest, and per turn behind that."""
    loop = asyncio.get_running_loop()
    question = json.dumps({"pieces": 20, "interval": 0.02})
    _, talker = await loop.create_connection(
        lambda: Talker(front.host, PATH, HEADERS, question), "127.0.0.1", front.port
    )
    await talker.until(lambda: len(talker.done) > 2)
    begun, before, turns = loop.time(), _counts(shared), len(talker.done)
    await talker.until(lambda: len(talker.done) >= turns + TURNS)
    talker.stop()
    await talker.finished
    busy, elapsed, turns = _counts(shared) - before, loop.time() - begun, len(talker.done) - turns
    await asyncio.sleep(1)
    before = _counts(shared)
    await asyncio.sleep(REST_SECONDS)
    rest = {name: count / REST_SECONDS for name, count in (_counts(shared) - before).items()}
    of_turn = {name: max(count - rest.get(name, 0) * elapsed, 0) / turns for name, count in busy.items()}
    return rest, of_turn
