"""What befalls the nodes and their Redis while devices talk, by a seed; and what it may have cost."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.cluster.audit import Ledger, Row
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster, Node

__all__ = ["Death", "Faults", "Plan"]

TAKEOVER_SECONDS = 2.0
"""How long after the end of its lease a dead node's turn may still be shown as running."""
SLACK_SECONDS = 1.5
"""For a machine that does other things, too."""
BUSY = 0.75
"""How often it is the node that runs the most turns that dies."""
TOGETHER_SECONDS = 0.75
"""Clocks: Postgres keeps milliseconds, and a signal is not sent at the moment that is noted."""


@dataclass(frozen=True, slots=True)
class Death:
    """A node that was killed, or stood still for longer than its lease."""

    node: str
    at: float
    """`time.time()`."""
    zombie: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of each, one every `spacing` seconds or so."""

    kills: int
    zombies: int
    redis_kills: int
    spacing: float

    @property
    def seconds(self) -> float:
        return (self.kills + self.zombies + self.redis_kills) * self.spacing


@dataclass(slots=True)
class Faults:
    """One run of a plan. A node is left to itself only while another one is well."""

    cluster: Cluster
    plan: Plan
    seed: int
    deaths: list[Death] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    """Of Redis: from when until when."""

    async def run(self) -> None:
        """Let it all happen; returns when everything runs again."""
        rng = random.Random(self.seed)
        plan = ["kill"] * self.plan.kills + ["zombie"] * self.plan.zombies + ["redis"] * self.plan.redis_kills
        rng.shuffle(plan)
        async with asyncio.TaskGroup() as group:
            for kind in plan:
                await asyncio.sleep(rng.uniform(0.6, 1.4) * self.plan.spacing)
                if kind == "redis":
                    await self._redis_killed(rng)
                    continue
                node = await self._victim(rng)
                if kind == "kill":
                    self.deaths.append(Death(node.name, time.time(), False))
                    await node.kill()
                    group.create_task(self._started_again(node, rng.uniform(0, 1.0)))
                else:
                    self.deaths.append(Death(node.name, time.time(), True))
                    node.freeze()
                    group.create_task(self._thawed(node, self.cluster.lease * rng.uniform(1.6, 2.6)))

    async def _victim(self, rng: random.Random) -> Node:
        deadline = time.monotonic() + 60
        while True:
            healthy = [node for node in self.cluster.all if node.healthy]
            if len(healthy) > 1:
                busy = Counter(call.node for call in self.cluster.upstream.calls if call.ended_at is None)
                rng.shuffle(healthy)
                return max(healthy, key=lambda node: busy[node.name]) if rng.random() < BUSY else healthy[0]
            assert time.monotonic() < deadline, "the nodes do not come back"
            await asyncio.sleep(0.05)

    async def _started_again(self, node: Node, delay: float) -> None:
        await asyncio.sleep(delay)
        await node.start_soon()

    async def _thawed(self, node: Node, delay: float) -> None:
        await asyncio.sleep(delay)
        node.thaw()

    async def _redis_killed(self, rng: random.Random) -> None:
        at = time.time()
        await self.cluster.redis.kill()
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        await self.cluster.redis.restart()
        self.outages.append((at, time.time()))

    # --- afterwards ---

    def check_interruptions(self, ledger: Ledger, devices: Iterable[Device]) -> list[float]:
        """Add to the ledger what was interrupted without cause or too late. Returns how late each was, in seconds."""
        lags: list[float] = []
        for row in ledger.rows.values():
            if row.status != "interrupted":
                continue
            assert row.finished_at is not None
            death = self._cause(row)
            if death is None:
                ledger.problems.append(f"{row.turn_id} ({row.marker}) was interrupted, and no node had died of it")
                continue
            lags.append(row.finished_at - death.at)
            if lags[-1] > (bound := self._bound(death, row.finished_at)):
                said = f"{lags[-1]:.1f} s after {self._told(death)}, not within {bound:.1f} s"
                ledger.problems.append(f"{row.turn_id} ({row.marker}) was interrupted {said}")
            ledger.problems += self._told_late(row, death, devices)
        return sorted(lags)

    def _cause(self, row: Row) -> Death | None:
        """The death of the node that ran it; of any node, if that had not called the upstream yet."""
        assert row.finished_at is not None
        paid = next((call for call in self.cluster.upstream.calls if call.marker == row.marker), None)
        before = [death for death in self.deaths if death.at <= row.finished_at + TOGETHER_SECONDS]
        if paid is None:
            return before[-1] if before else None
        return next((d for d in before if d.node == paid.node and d.at >= paid.at - TOGETHER_SECONDS), None)

    def _bound(self, death: Death, ended_at: float) -> float:
        """Without Redis nobody can know that a lease has run out: an outage counts, and a lease behind it. And the node
        that has just taken it over may die as well."""
        bound = self.cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS
        begin = death.at + self.cluster.lease / 2
        bound += max((also.at - death.at for also in self.deaths if begin <= also.at <= ended_at), default=0.0)
        for begin, end in self._outages_between(death.at - self.cluster.lease, ended_at):
            bound += end - begin + self.cluster.lease
        return bound

    def _outages_between(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        return ((b, e) for b, e in self.outages if e >= begin and b <= end)

    def _told(self, death: Death) -> str:
        return f"node {death.node} {'stood still' if death.zombie else 'was killed'}"

    def _told_late(self, row: Row, death: Death, devices: Iterable[Device]) -> Iterator[str]:
        """What devices saw that were on a node that lived all the while."""
        dead = self.cluster.node(death.node).url
        for device in devices:
            ending = device.endings.get(row.turn_id)
            if ending is None or ending.connected_at > death.at or ending.node == dead:
                continue
            if self._stood_still(ending.node, death.at, ending.at):
                continue
            lag = ending.at - death.at
            if lag > (bound := self._bound(death, ending.at)):
                yield (
                    f"{device.name} on {ending.node} was told of the interruption of {row.turn_id} {lag:.1f} s after "
                    f"{self._told(death)}, not within {bound:.1f} s"
                )

    def _stood_still(self, url: str, begin: float, end: float) -> bool:
        """Whether that node was a zombie at some time in between."""
        longest = self.cluster.lease * 3
        return any(
            d.zombie and self.cluster.node(d.node).url == url and begin - longest <= d.at <= end for d in self.deaths
        )
