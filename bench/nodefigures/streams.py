"""CPU per piece of text and added latency while many streams run."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass

from bench.cluster import HEADERS, PATH, Meter, Node, Servers
from bench.load import Phone, Tally

PIECES_PER_SECOND = 50
RAMP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    cpu_us: dict[str, float]
    """Per piece, by process."""
    total: float
    p50_ms: float
    p99_ms: float
    xadds: float
    """Entries written to Redis per piece."""
    wire_bytes: float
    """Through Redis per piece, both ways."""


def question_of(pieces: int) -> str:
    return json.dumps({"pieces": pieces, "interval": 1 / PIECES_PER_SECOND, "stamp": True})


async def measure(shared: Servers, nodes: Mapping[str, Node], front: Node, count: int, seconds: float) -> Figures:
    """Phones on `front` ask for `count` streams at once; looked at for `seconds`, two seconds after the last."""
    loop, tally = asyncio.get_running_loop(), Tally()
    question = question_of(round((seconds + 2 * RAMP_SECONDS) * PIECES_PER_SECOND))
    phones = []
    for _ in range(count):  # spread over one interval, as real streams are
        _, phone = await loop.create_connection(
            lambda: Phone(front.host, PATH, HEADERS, question, tally), "127.0.0.1", front.port
        )
        phones.append(phone)
        await asyncio.sleep(RAMP_SECONDS / 2 / count)
    await asyncio.sleep(RAMP_SECONDS)
    gc.disable()
    calls, net = shared.redis_calls(), _net(shared)
    meter = Meter(shared, nodes)
    tally.pieces, tally.latencies = 0, []
    await asyncio.sleep(seconds)
    used, pieces, latencies = meter.used(), tally.pieces, sorted(tally.latencies)
    xadds = shared.redis_calls().get("xadd", 0) - calls.get("xadd", 0)
    net = _net(shared) - net
    gc.enable()
    await asyncio.wait_for(asyncio.gather(*(phone.finished for phone in phones)), 60)
    assert tally.done == count
    if not pieces:
        raise RuntimeError("nothing came: the machine is too busy with other things")
    cpu_us = {name: one / pieces * 1e6 for name, one in used.items()}
    if len(nodes) == 1:  # it uses neither
        del cpu_us["Redis"], cpu_us["Postgres"]
    return Figures(
        cpu_us=cpu_us,
        total=sum(cpu_us.values()),
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        xadds=xadds / pieces,
        wire_bytes=net / pieces,
    )


def _net(shared: Servers) -> int:
    stats = shared.redis_info("stats")
    return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
