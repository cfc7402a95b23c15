"""What devices see that talk through an outage, and whether all is well behind it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import httpx2

from tests.cluster.audit import Ledger, audited
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster, Node
from tests.cluster.upstream import asking

USERS = [f"user{number}" for number in range(4)]
HEALED_SECONDS = 10.0
"""Within which everything must be as before, once what was gone is back."""

Outage = Callable[[], AbstractAsyncContextManager[None]]


@dataclass
class Seen:
    """What was found while devices talked through an outage."""

    ledger: Ledger
    devices: list[Device]
    begin: float
    end: float
    """Of the outage, as `time.time()`."""
    health: dict[str, list[tuple[float, int, str]]] = field(default_factory=dict)
    """By node: when, HTTP status, status in words."""
    healed: float = 0.0
    """Seconds from the end of the outage until every node was well."""

    def during(self, node: str, settled: float = 1.0) -> set[tuple[int, str]]:
        """What the node said of itself during the outage, but for its begin."""
        return {(code, said) for at, code, said in self.health[node] if self.begin + settled < at < self.end}

    @property
    def accepted(self) -> list[str]:
        """What was accepted during the outage."""
        return [s.id for d in self.devices for s in d.sent if self.begin + 0.2 < s.at < self.end]

    def pieces_while_down(self, device: Device) -> int:
        """How many frames of text came to the device during the outage."""
        frames = zip(device.client.frames, device.client.arrivals, strict=True)
        offset = time.time() - time.monotonic()
        return sum(f["type"] == "message" and self.begin + 0.5 < at + offset < self.end for f, at in frames)


async def watching(node: Node, seen: list[tuple[float, int, str]]) -> None:
    """Ask for its health until cancelled."""
    async with httpx2.AsyncClient(timeout=8, trust_env=False) as http:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = await http.get(f"{node.url}/api/health")
                seen.append((time.time(), answer.status_code, answer.json()["status"]))
            await asyncio.sleep(0.2)


async def talking(device: Device, over: asyncio.Event, seed: int, longest: int) -> None:
    rng = random.Random(f"{seed} {device.name}")
    number = 0
    while number == 0 or not over.is_set():
        marker = f"s{seed}-{device.name}-{number}"
        content = asking(marker, pieces=rng.randint(10, longest), interval=0.05)
        sent = await device.send(content, thread_id=f"{device.name}-{number % 2}", id=marker, within=60)
        number += 1
        if rng.random() < 0.5:
            await device.ended(sent.turn_id, within=60)
        await asyncio.sleep(rng.uniform(0.1, 0.6))
    for sent in device.sent:
        await device.ended(sent.turn_id, within=60)


async def through(cluster: Cluster, outage: Outage, seconds: float, seed: int, longest: int | None = None) -> Seen:
    """Devices that stay on their nodes talk before, during and behind an outage. Everything is audited.

    An answer has at most `longest` pieces, twenty of them in a second; as many as the outage lasts and more, if that
    is not given.
    """
    longest = longest or round(30 * seconds)
    await cluster.start()
    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        devices = []
        for number, user in enumerate(USERS):
            here = [cluster.nodes[number % len(cluster.nodes)].url]
            device = Device(f"phone{number}", here.copy, cluster.tokens[user], seed=seed, patience=None)
            devices.append(await stack.enter_async_context(device))
        health: dict[str, list[tuple[float, int, str]]] = {node.name: [] for node in cluster.nodes}
        watches = [asyncio.create_task(watching(node, health[node.name])) for node in cluster.nodes]
        stack.callback(lambda: [watch.cancel() for watch in watches])
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(talking(device, over, seed, longest))
            await asyncio.sleep(1.5)
            begin = time.time()
            async with outage():
                await asyncio.sleep(seconds)
                end = time.time()
            healed = await all_well(health)
            over.set()
        ledger = await audited(cluster, devices)
    seen = Seen(ledger, devices, begin, end, health, healed - end)
    said = {name: sorted(seen.during(name)) for name in health}
    print(
        f"seed {seed}: down for {end - begin:.1f} s: {len(ledger.rows)} turns, {ledger.count('completed')} completed, "
        f"{ledger.count('interrupted')} interrupted, {len(seen.accepted)} accepted meanwhile, "
        f"health {said}, well {seen.healed:.1f} s behind"
    )
    return seen


async def all_well(health: dict[str, list[tuple[float, int, str]]]) -> float:
    """When all nodes were well again."""
    since = time.time()
    deadline = time.monotonic() + HEALED_SECONDS
    while True:
        if all(seen and seen[-1][0] > since and seen[-1][2] == "ok" for seen in health.values()):
            return time.time()
        assert time.monotonic() < deadline, f"not well: { {name: seen[-2:] for name, seen in health.items()} }"
        await asyncio.sleep(0.05)
