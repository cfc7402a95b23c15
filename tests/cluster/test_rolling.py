"""Nodes are restarted one after the other while people talk: they notice a reconnection, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics

import pytest

from tests.cluster.audit import audited
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import asking

USERS = [f"user{number}" for number in range(10)]


async def chatting(device: Device, over: asyncio.Event, seed: int) -> int:
    """One turn after the other until it is over. Returns how many."""
    rng = random.Random(f"{seed} {device.name}")
    await asyncio.sleep(rng.uniform(0, 3))
    number = 0
    while number == 0 or not over.is_set():
        marker = f"s{seed}-{device.name}-{number}"
        content = asking(marker, pieces=rng.randint(5, 25), interval=0.1)
        sent = await device.send(content, thread_id=device.name, id=marker, within=60)
        await device.ended(sent.turn_id)
        number += 1
        await asyncio.sleep(rng.uniform(0, 1))
    return number


async def rolled(cluster: Cluster, *, restarts: int, devices: int, seed: int, pause: float) -> None:
    await cluster.start()

    def urls() -> list[str]:
        return [node.url for node in cluster.nodes if node.running]

    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        phones = [
            Device(f"phone{number}", urls, cluster.tokens[USERS[number % len(USERS)]], seed=seed, patience=15.0)
            for number in range(devices)
        ]
        for phone in phones:
            await stack.enter_async_context(phone)
        async with asyncio.TaskGroup() as group:
            talks = [group.create_task(chatting(phone, over, seed)) for phone in phones]
            for number in range(restarts):
                await asyncio.sleep(pause)
                node = cluster.nodes[number % len(cluster.nodes)]
                node.terminate()
                assert await node.exited(within=60) == 0, f"restart {number}, of node {node.name}: {node.log[-2000:]}"
                await node.start_soon()
            await asyncio.sleep(pause)
            over.set()
        turns = sum(talk.result() for talk in talks)
        ledger = await audited(cluster, phones)
    goodbyes = sorted(at for phone in phones for at in phone.goodbyes)
    print(
        f"seed {seed}: {restarts} restarts, {devices} devices, {turns} turns, {ledger.count('completed')} completed, "
        f"{ledger.count('interrupted')} interrupted, {sum(p.resumed for p in phones)} resumed, "
        f"{sum(len(p.unrecovered) for p in phones)} not recovered, {len(goodbyes)} goodbyes "
        f"over {goodbyes[0] if goodbyes else 0}–{goodbyes[-1] if goodbyes else 0} ms"
    )
    for phone in phones:
        ledger.problems += [f"not recovered: {said}" for said in phone.unrecovered]
    if len(ledger.rows) != turns or ledger.count("completed") != turns:
        ledger.problems.append(f"{turns} turns were sent, {ledger.count('completed')} of {len(ledger.rows)} completed")
    ledger.check(f"seed {seed}")
    assert len(goodbyes) >= devices * restarts / len(cluster.nodes) / 2, "a restart says goodbye to whom it serves"
    assert statistics.pstdev(goodbyes) > 400, f"they all come back at once: {goodbyes}"


async def test_a_rolling_restart_loses_nothing_and_spreads_those_who_come_back(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await rolled(cluster, restarts=2, devices=30, seed=4, pause=1.5)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_ten_rolling_restarts_under_two_hundred_devices_lose_nothing(new_cluster: NewCluster) -> None:
    environment = {"DRAIN_SECONDS": "30"}
    async with new_cluster(nodes=3, users=USERS, environment=environment) as cluster:
        await rolled(cluster, restarts=10, devices=200, seed=41, pause=3.0)


async def test_without_a_drain_a_restart_interrupts_turns(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, users=USERS, environment={"DRAIN_SECONDS": "0"}) as cluster:
        with pytest.raises(AssertionError, match="completed"):
            await rolled(cluster, restarts=1, devices=8, seed=5, pause=1.5)
