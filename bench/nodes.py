"""What many nodes cost, beside the gateway on its own (SQLite, no Redis) in the same run.

    python -m bench.nodes [streams turns words memory followers takeover] [--rounds 3] [--seconds 5]

streams    CPU per piece of text and added latency: on its own; where the turn runs on the phone's node; where it runs
           on another one
turns      CPU and latency of short turns, and what Redis and Postgres do for one
words      statements and commands of one turn, by name
memory     of a node and of Redis, for a running turn and for one that has ended
followers  one stream on a node whose phones follow many threads at rest
takeover   from the death of a node until a phone on another one is shown that its turn was interrupted
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from collections.abc import Callable, Iterator

import uvloop

from bench.cluster import Node, Servers, servers
from bench.nodefigures import followers, memory, streams, takeover, turns, words

SECTIONS = ("streams", "turns", "words", "memory", "followers", "takeover")


@contextlib.contextmanager
def pair(shared: Servers, *, apart: bool = False) -> Iterator[tuple[Node, Node]]:
    """Two nodes. With `apart` turns run on the first alone."""
    with shared.node() as a, shared.node(RUN_TURNS="false" if apart else "true") as b:
        yield a, b


def median(values: list[float]) -> float:
    return statistics.median(values)


def show(title: str, rows: list[tuple[str, ...]]) -> None:
    """A table, as Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    print(f"\n{title}\n")
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def report_streams(counts: list[int], rounds: int, seconds: float) -> None:
    names = ("node", "other node", "Redis", "Postgres")
    rows: list[tuple[str, ...]] = [("streams", "", *names, "all", "× alone", "p50", "p99", "XADD/piece", "B/piece")]
    for count in counts:
        runs: dict[str, list[streams.Figures]] = {"alone": [], "same node": [], "other node": []}
        for _ in range(rounds):
            with servers() as shared:
                with shared.alone() as node:
                    runs["alone"].append(uvloop.run(streams.measure(shared, {"node": node}, node, count, seconds)))
                with pair(shared) as (a, b):
                    nodes = {"node": a, "other node": b}
                    runs["same node"].append(uvloop.run(streams.measure(shared, nodes, a, count, seconds)))
            with servers() as shared, pair(shared, apart=True) as (a, b):
                nodes = {"node": a, "other node": b}
                runs["other node"].append(uvloop.run(streams.measure(shared, nodes, b, count, seconds)))
        for how, figures in runs.items():
            cells = [f"{median([one.cpu_us.get(name, 0.0) for one in figures]):.1f}" for name in names]
            ratio = median([one.total / other.total for one, other in zip(figures, runs["alone"], strict=True)])
            rows.append(
                (
                    str(count),
                    how,
                    *cells,
                    f"{median([one.total for one in figures]):.1f}",
                    f"{ratio:.2f}",
                    f"{median([one.p50_ms for one in figures]):.2f}",
                    f"{median([one.p99_ms for one in figures]):.1f}",
                    f"{median([one.xadds for one in figures]):.2f}",
                    f"{median([one.wire_bytes for one in figures]):.0f}",
                )
            )
    show("CPU in µs per piece of text; added latency in ms; bytes through Redis, both ways", rows)


def report_turns(rounds: int, seconds: float) -> None:
    names = ("node", "other node", "Redis", "Postgres")
    rows: list[tuple[str, ...]] = [
        ("phones", "", "turns/s", *names, "accepted p50", "p99", "done p50", "p99", "Redis commands", "WAL bytes")
    ]
    for phones in (1, 16):
        runs: dict[str, list[turns.Figures]] = {"alone": [], "one of two nodes": [], "other node": []}
        for _ in range(rounds):
            with servers() as shared:
                with shared.alone() as node:
                    runs["alone"].append(uvloop.run(turns.measure(shared, {"node": node}, node, phones, seconds)))
                with pair(shared) as (a, b):
                    nodes = {"node": a, "other node": b}
                    runs["one of two nodes"].append(uvloop.run(turns.measure(shared, nodes, a, phones, seconds)))
            with servers() as shared, pair(shared, apart=True) as (a, b):
                nodes = {"node": a, "other node": b}
                runs["other node"].append(uvloop.run(turns.measure(shared, nodes, b, phones, seconds)))
        for how, figures in runs.items():
            cells = [f"{median([one.cpu_ms.get(name, 0.0) for one in figures]):.2f}" for name in names]
            latencies: list[Callable[[turns.Figures], float]] = [
                lambda one: one.accepted[0],
                lambda one: one.accepted[1],
                lambda one: one.done[0],
                lambda one: one.done[1],
            ]
            rows.append(
                (
                    str(phones),
                    how,
                    f"{median([one.per_second for one in figures]):.1f}",
                    *cells,
                    *(f"{median([pick(one) for one in figures]):.1f}" for pick in latencies),
                    f"{median([one.commands for one in figures]):.1f}",
                    f"{median([one.wal for one in figures]):.0f}",
                )
            )
    show(f"Turns of {turns.PIECES} pieces at once: CPU in ms per turn, latency in ms", rows)


def report_words() -> None:
    with servers() as shared:
        shared.postgres.sql("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
        with pair(shared) as (a, _):
            idle, of_turn = uvloop.run(words.measure(shared, a))
            print(f"\nAt rest, two nodes, per second: {words.listed(idle)}")
            print(f"One turn, node and other node together: {words.listed(of_turn)}")


def report_memory() -> None:
    rows: list[tuple[str, ...]] = [("", "KiB")]
    with servers() as shared, pair(shared) as (a, b):
        for name, kib in uvloop.run(memory.measure(shared, a, b)).items():
            rows.append((name, f"{kib:.1f}"))
    show(
        f"{memory.TURNS} turns of {memory.PIECES} pieces at 50 a second, and {memory.SOCKETS:,} idle sockets; of each",
        rows,
    )


def report_followers(rounds: int, seconds: float) -> None:
    rows: list[tuple[str, ...]] = [
        ("followed", "of a core on the node", "of a core in Redis", "µs per piece, node", "Redis", "p50 ms", "p99 ms")
    ]
    for count in (1, 1000, 5000):
        runs = []
        for _ in range(rounds):
            with servers() as shared, pair(shared, apart=True) as (a, b):
                runs.append(uvloop.run(followers.measure(shared, a, b, count, seconds)))
        rows.append(
            (f"{count:,}", *(f"{median([one[i] for one in runs]):.{d}f}" for i, d in enumerate((3, 3, 0, 0, 1, 1))))
        )
    show("One stream of 50 pieces a second, on a node whose phones follow so many threads that run elsewhere", rows)


def report_takeover(rounds: int) -> None:
    rows: list[tuple[str, ...]] = [("lease s", "seconds until shown", "least", "most")]
    for lease in (2.0, 10.0):
        times = []
        for _ in range(rounds):
            with servers() as shared:
                times += uvloop.run(takeover.measure(shared, lease))
        rows.append((f"{lease:g}", f"{median(times):.1f}", f"{min(times):.1f}", f"{max(times):.1f}"))
    show("kill -9 of the node that runs a turn, until a phone on another node is shown that it was interrupted", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--streams", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; {options.rounds} rounds of {options.seconds:g} s, medians")
    reports: dict[str, Callable[[], None]] = {
        "streams": lambda: report_streams(options.streams, options.rounds, options.seconds),
        "turns": lambda: report_turns(options.rounds, options.seconds),
        "words": report_words,
        "memory": report_memory,
        "followers": lambda: report_followers(options.rounds, options.seconds),
        "takeover": lambda: report_takeover(options.rounds),
    }
    for section in options.sections:
        reports[section]()


if __name__ == "__main__":
    main()
