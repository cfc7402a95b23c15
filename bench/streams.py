"""Server CPU per piece of text, and added latency, of the gateway beside the usual relay and the floor.

    python -m bench.streams [--streams 100 200] [--rounds 3] [--seconds 8]

Each round takes the three in turn against the same upstream, which sends 50 pieces a second in every stream. CPU is
what the server process used while all streams ran; latency is from the upstream's write to the phone's read.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
from dataclasses import dataclass

import uvloop

from bench.load import Phone, Tally
from bench.processes import cpu_seconds, subject, upstream

SUBJECTS = ("relay", "floor", "gateway")
PIECES_PER_SECOND = 50
RAMP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    cpu_us: float
    p50_ms: float
    p99_ms: float
    share: float
    """Of one core."""


async def measure(pid: int, host: str, path: str, headers: dict[str, str], streams: int, seconds: float) -> Figures:
    """Run `streams` turns at once, and look at the `seconds` after the first two."""
    loop, tally = asyncio.get_running_loop(), Tally()
    pieces = round((seconds + 2 * RAMP_SECONDS) * PIECES_PER_SECOND)
    question = json.dumps({"pieces": pieces, "interval": 1 / PIECES_PER_SECOND, "stamp": True})
    name, port = host.split(":")
    phones = []
    for _ in range(streams):  # spread over one interval, as real streams are
        _, phone = await loop.create_connection(lambda: Phone(host, path, headers, question, tally), name, int(port))
        phones.append(phone)
        await asyncio.sleep(RAMP_SECONDS / 2 / streams)
    await asyncio.sleep(RAMP_SECONDS)
    gc.disable()
    before, tally.pieces, tally.latencies = cpu_seconds(pid), 0, []
    started = loop.time()
    await asyncio.sleep(seconds)
    used, counted, latencies = cpu_seconds(pid) - before, tally.pieces, sorted(tally.latencies)
    elapsed = loop.time() - started
    gc.enable()
    await asyncio.wait_for(asyncio.gather(*(phone.finished for phone in phones)), 60)
    assert tally.done == streams
    return Figures(
        cpu_us=used / counted * 1e6,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        share=used / elapsed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.rounds} rounds of {options.seconds:g} s, medians")
    print("streams  server     CPU/piece of a core       p50       p99  × relay  × floor")
    for streams in options.streams:
        runs: dict[str, list[Figures]] = {name: [] for name in options.subjects}
        for _ in range(options.rounds):
            for name in options.subjects:
                with upstream() as url, subject(name, url) as (pid, host, path, headers):
                    runs[name].append(uvloop.run(measure(pid, host, path, headers, streams, options.seconds)))
        report(streams, runs)


def report(streams: int, runs: dict[str, list[Figures]]) -> None:
    for name, figures in runs.items():
        cpu, share, p50, p99 = (
            statistics.median(getattr(one, key) for one in figures) for key in ("cpu_us", "share", "p50_ms", "p99_ms")
        )
        times_relay, times_floor = (ratio(figures, runs.get(base)) for base in ("relay", "floor"))
        print(
            f"{streams:>7}  {name:<8} {cpu:>7.1f} µs {share:>9.0%} {p50:>6.2f} ms {p99:>6.2f} ms"
            f" {times_relay:>8} {times_floor:>8}"
        )


def ratio(figures: list[Figures], base: list[Figures] | None) -> str:
    """The median of the CPU ratios, round by round."""
    if base is None:
        return ""
    return f"{statistics.median(one.cpu_us / other.cpu_us for one, other in zip(figures, base, strict=True)):.2f}"


if __name__ == "__main__":
    main()
