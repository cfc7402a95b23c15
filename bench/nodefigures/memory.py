"""Memory of a node and of Redis, for running turns and for those that have ended."""

from __future__ import annotations

import asyncio

from bench.cluster import HEADERS, PATH, Node, Servers
from bench.load import Phone, Reader, Tally
from bench.nodefigures.streams import PIECES_PER_SECOND, question_of

TURNS = 100
PIECES = 500
SOCKETS = 1000


async def measure(shared: Servers, a: Node, b: Node) -> dict[str, float]:
    """KiB per turn, and per socket, by what for."""
    loop = asyncio.get_running_loop()
    await _batch(loop, a, TURNS, 20)  # whatever the first turns make once and for all
    found: dict[str, float] = {}
    memory = a.memory
    idle = [
        (await loop.create_connection(lambda: Reader(a.host, PATH, HEADERS), "127.0.0.1", a.port))[1]
        for _ in range(SOCKETS)
    ]
    await asyncio.gather(*(reader.ready for reader in idle))
    found["node, an idle socket"] = (a.memory - memory) / SOCKETS / 1024
    for reader in idle:
        reader.close()
    await asyncio.sleep(1)
    memory, redis = a.memory, _used(shared)
    tally = Tally()
    phones = await _phones(loop, a, TURNS, PIECES, tally)
    await asyncio.sleep(PIECES / PIECES_PER_SECOND * 0.9)
    found["node, running, with its socket"] = (a.memory - memory) / TURNS / 1024
    found["Redis, running"] = (_used(shared) - redis) / TURNS / 1024
    await asyncio.gather(*(phone.finished for phone in phones))
    await asyncio.sleep(2)
    found["Redis, ended"] = (_used(shared) - redis) / TURNS / 1024
    return found


def _used(shared: Servers) -> int:
    return int(shared.redis_info("memory")["used_memory"])


async def _phones(loop: asyncio.AbstractEventLoop, node: Node, count: int, pieces: int, tally: Tally) -> list[Phone]:
    question = question_of(pieces)
    return [
        (
            await loop.create_connection(
                lambda: Phone(node.host, PATH, HEADERS, question, tally), "127.0.0.1", node.port
            )
        )[1]
        for _ in range(count)
    ]


async def _batch(loop: asyncio.AbstractEventLoop, node: Node, count: int, pieces: int) -> None:
    await asyncio.gather(*(phone.finished for phone in await _phones(loop, node, count, pieces, Tally())))
