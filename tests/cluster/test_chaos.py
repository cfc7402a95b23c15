"""Nodes are killed and stand still, Redis is killed: every accepted turn ends once, as stored and shown."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections.abc import Sequence

import pytest

from tests.cluster.audit import Ledger, audited
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.faults import Faults, Plan
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import asking

USERS = [f"user{number}" for number in range(6)]


async def talking(device: Device, watcher: Device, turns: int, gap: float, seed: int, longest: float) -> None:
    """Send so many messages to a few threads, one every `gap` seconds; return when both devices know all the ends."""
    rng = random.Random(f"{seed} {device.name}")
    sent = []
    for number in range(turns):
        thread_id = f"{device.name}-{rng.randrange(max(1, turns // 3))}"
        interval = rng.choice((0.0, 0.03, 0.05, 0.05))
        pieces = rng.randint(3, int(longest / 0.05))
        marker = f"s{seed}-{device.name}-{number}"
        message = await device.send(asking(marker, pieces, interval), thread_id=thread_id, id=marker, within=60)
        watcher.follow(thread_id)
        sent.append(message)
        await asyncio.sleep(rng.uniform(0.5, 1.5) * gap)
    for message in sent:
        for one in (device, watcher):
            await one.ended(message.turn_id, within=90)


async def storm(
    cluster: Cluster, seed: int, turns: int, plan: Plan, longest: float = 7.0
) -> tuple[Ledger, Faults, Sequence[Device]]:
    """Devices talk while the plan comes true. Half of the devices believe in a silent connection for ever."""
    await cluster.start()
    faults = Faults(cluster, plan, seed)

    def urls() -> list[str]:
        return [node.url for node in cluster.nodes]

    async with contextlib.AsyncExitStack() as stack:
        pairs: list[tuple[Device, Device]] = []
        for number, user in enumerate(USERS):
            token = cluster.tokens[user]
            patience = 3.0 if number % 2 else None
            pair = (
                Device(f"phone{number}", urls, token, seed=seed, patience=patience),
                Device(f"watch{number}", urls, token, seed=seed, patience=patience),
            )
            pairs.append(pair)
            for device in pair:
                await stack.enter_async_context(device)
        each = turns // len(pairs)
        async with asyncio.TaskGroup() as group:
            group.create_task(faults.run())
            for phone, watcher in pairs:
                group.create_task(talking(phone, watcher, each, plan.seconds / each, seed, longest))
        devices = [device for pair in pairs for device in pair]
        ledger = await audited(cluster, devices)
    assert len(ledger.rows) == each * len(pairs)
    return ledger, faults, devices


async def survived(cluster: Cluster, seed: int, turns: int, plan: Plan) -> None:
    """A storm after which nothing is wrong."""
    ledger, faults, devices = await storm(cluster, seed, turns, plan)
    lags = faults.check_interruptions(ledger, devices)
    unrecovered = sum(len(device.unrecovered) for device in devices)
    said = f"median {statistics.median(lags):.2f} s, last {lags[-1]:.2f} s behind the death" if lags else "none"
    print(
        f"seed {seed}: {len(ledger.rows)} turns, {ledger.count('completed')} completed, {len(lags)} interrupted "
        f"({said}); {len(faults.deaths)} deaths, {len(faults.outages)} kills of Redis; "
        f"{sum(d.resumed for d in devices)} resumed, {unrecovered} not recovered"
    )
    ledger.check(f"seed {seed}")
    assert lags, "nothing was interrupted: that was no storm"


async def test_whatever_dies_every_turn_ends_once_and_is_paid_for_once(new_cluster: NewCluster) -> None:
    async with new_cluster(users=USERS) as cluster:
        await survived(cluster, 1, 60, Plan(kills=8, zombies=2, redis_kills=1, spacing=2.5))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_whatever_dies_forty_times_every_turn_ends_once_and_is_paid_for_once(
    seed: int, new_cluster: NewCluster
) -> None:
    async with new_cluster(users=USERS) as cluster:
        await survived(cluster, seed, 300, Plan(kills=40, zombies=10, redis_kills=5, spacing=2.0))
