"""What the gateway counts, as Prometheus reads it. `docs/operate.md` has the list; a test holds the two together.

Counting is arithmetic on plain numbers in the one loop that everything runs in. Metric families are made of them only
when somebody asks, so that a piece of text costs less than a microsecond. One `Metrics` per application, no globals.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.runner.verdict import Ending
from notifications.records import Outcome, Platform
from providers import ERROR_CODES

FIRST_PIECE_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CODES = ERROR_CODES | {"agent_unavailable", "unavailable"}
"""What a label may say of an error. A plug-in may give its errors any other code: that is `other`."""


class Histogram:
    """Observations sorted into buckets."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many are not above it, the last one `+Inf`."""
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        below, buckets = 0, []
        for name, count in zip(names, self._counts, strict=True):
            below += count
            buckets.append((name, float(below)))
        return buckets


class Pace:
    """How the pieces of one turn's text follow each other."""

    __slots__ = ("_first", "_gaps", "_last", "_pieces")

    def __init__(self, first: Histogram, gaps: Histogram, started: float) -> None:
        self._first = first
        self._gaps = gaps
        self._last = started
        self._pieces = 0

    def logged(self, pieces: int) -> None:
        """Called after each event of the provider with how many pieces the answer has by now."""
        if pieces != self._pieces:
            at = time.monotonic()
            (self._gaps if self._pieces else self._first).observe(at - self._last)
            self._last = at
            self._pieces = pieces


@dataclass(frozen=True, slots=True)
class Now:
    """What is not counted but looked up when somebody asks."""

    connections: Mapping[str, int]
    """By agent."""
    running: int
    stuck: int
    outbox: Mapping[Platform, int]


class Metrics(Collector):
    """Counts, and shows what it has counted."""

    def __init__(self) -> None:
        self._first: dict[str, Histogram] = {}
        self._gaps: dict[str, Histogram] = {}
        self._turns: Counter[tuple[str, ...]] = Counter()
        self._errors: Counter[tuple[str, ...]] = Counter()
        self._pushes: Counter[tuple[str, ...]] = Counter()
        self._resumes: Counter[str] = Counter(exact=0, refused=0)
        self._joined = 0
        self._now = Now({}, 0, 0, {})
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def pace(self, agent: str, started: float) -> Pace:
        """For the pieces of a turn of the agent that began at `started` (`time.monotonic()`)."""
        first = self._first.setdefault(agent, Histogram(FIRST_PIECE_BOUNDS))
        return Pace(first, self._gaps.setdefault(agent, Histogram(GAP_BOUNDS)), started)

    def turn_ended(self, agent: str, status: Ending, code: str | None) -> None:
        """`code` says why it failed."""
        self._turns[agent, status] += 1
        if status == "failed":
            self.provider_failed(agent, code or "other")

    def provider_failed(self, agent: str, code: str) -> None:
        """A call of the provider ended with that error, whether it is made again or not."""
        self._errors[agent, code if code in CODES else "other"] += 1

    def resumed(self, result: Literal["exact", "refused"]) -> None:
        """A client attached with a cursor."""
        self._resumes[result] += 1

    def frames_joined(self) -> None:
        """A client that was behind got several pieces of text as one frame."""
        self._joined += 1

    def pushed(self, platform: Platform | None, outcome: Outcome) -> None:
        """A push has its outcome. `platform` is None where the user had no device."""
        self._pushes[platform or "none", outcome] += 1

    def exposition(self, accept: str, now: Now) -> tuple[bytes, str]:
        """Everything, in the format that `accept` (the header) asks for, and that format's media type."""
        self._now = now
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        now = self._now
        yield _gauge("agentline_connections", "Open sockets.", ["agent"], {(a,): n for a, n in now.connections.items()})
        yield _counter("agentline_turns", "Turns that ended, by how.", ["agent", "outcome"], self._turns)
        yield _gauge("agentline_turns_running", "Turns that run.", [], {(): now.running})
        yield _gauge("agentline_providers_stuck", "Providers that did not end when stopped.", [], {(): now.stuck})
        yield _histogram(
            "agentline_first_piece_seconds", "From a turn's start to the first piece of its text.", self._first
        )
        yield _histogram("agentline_piece_gap_seconds", "Between two pieces of a turn's text.", self._gaps)
        yield _counter(
            "agentline_provider_errors",
            "Calls of providers that failed, repeated or not.",
            ["agent", "code"],
            self._errors,
        )
        yield _counter(
            "agentline_resumes",
            "Clients that came back with a cursor, by whether it was honoured.",
            ["result"],
            {(result,): count for result, count in self._resumes.items()},
        )
        yield _counter(
            "agentline_frames_joined", "Frames that showed a slow client several pieces.", [], {(): self._joined}
        )
        yield _counter("agentline_pushes", "Pushes by their outcome.", ["platform", "outcome"], self._pushes)
        yield _gauge(
            "agentline_outbox_pushes",
            "Pushes without an outcome.",
            ["platform"],
            {(p,): n for p, n in now.outbox.items()},
        )


def _samples(values: Mapping[tuple[str, ...], int]) -> Iterable[tuple[tuple[str, ...], int]]:
    return sorted(values.items())


def _counter(name: str, says: str, labels: list[str], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, says, labels=labels)
    for label_values, count in _samples(values):
        family.add_metric(label_values, count)
    return family


def _gauge(name: str, says: str, labels: list[str], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = GaugeMetricFamily(name, says, labels=labels)
    for label_values, value in _samples(values):
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, says: str, by_agent: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, says, labels=["agent"])
    for agent, histogram in sorted(by_agent.items()):
        family.add_metric([agent], histogram.buckets, histogram.total)
    return family
