"""Devices lose their connections at any moment and go on at another node: nothing is missing, nothing comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass

import pytest

from tests.cluster.audit import audited
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import asking

USERS = [f"user{number}" for number in range(10)]


@dataclass
class Talk:
    """One thread, the device that asks in it, and those that follow it."""

    name: str
    asker: Device
    followers: list[Device]

    @property
    def devices(self) -> list[Device]:
        return [self.asker, *self.followers]

    async def run(self, cuts: int, mean: float, seed: int) -> int:
        """Turns without a pause until every device has been cut off so often. Returns how many."""
        first, turns = await self._turn(0), [""]
        turns[0] = first
        async with asyncio.TaskGroup() as group:
            cutting = [group.create_task(self._cut(device, cuts, mean, seed)) for device in self.devices]
            while not all(task.done() for task in cutting):
                await self.asker.ended(turns[-1], within=150)
                turns.append(await self._turn(len(turns)))
        for device in self.devices:
            await device.ended(turns[-1], within=150)
        return len(turns)

    async def _turn(self, number: int) -> str:
        marker = f"{self.name}-{number}"
        content = asking(marker, pieces=40, interval=0.1)
        sent = await self.asker.send(content, thread_id=self.name, id=marker, within=150)
        for follower in self.followers:
            follower.expect(sent.turn_id, content)
            follower.follow(self.name)
        return sent.turn_id

    async def _cut(self, device: Device, cuts: int, mean: float, seed: int) -> None:
        rng = random.Random(f"{seed} {device.name} cuts")
        for _ in range(cuts):
            await asyncio.sleep(rng.uniform(0, 2 * mean))
            await device.until(lambda: device.settled, "it is attached", within=180)
            device.cut()


async def cut_off(
    cluster: Cluster, *, talks: int, followers: int, cuts: int, mean: float, seed: int
) -> tuple[list[Device], int]:
    await cluster.start()

    def urls() -> list[str]:
        return [node.url for node in cluster.nodes]

    async with contextlib.AsyncExitStack() as stack:
        made: list[Talk] = []
        for number in range(talks):
            token = cluster.tokens[USERS[number % len(USERS)]]
            devices = [Device(f"d{number}-{i}", urls, token, seed=seed, patience=10.0) for i in range(1 + followers)]
            for device in devices:
                await stack.enter_async_context(device)
            await asyncio.sleep(0.2)  # they come one after the other; it is the cuts that come at once
            made.append(Talk(f"talk{number}", devices[0], devices[1:]))
        turns = await asyncio.gather(*(talk.run(cuts, mean, seed) for talk in made))
        devices = [device for talk in made for device in talk.devices]
        ledger = await audited(cluster, devices)
    for device in devices:
        if device.cuts != cuts:
            ledger.problems.append(f"{device.name} was cut off {device.cuts} times, not {cuts}")
        ledger.problems += [f"not recovered: {said}" for said in device.unrecovered]
    if ledger.count("completed") != sum(turns):
        ledger.problems.append(f"{ledger.count('completed')} of {sum(turns)} turns are completed")
    resumed = sum(device.resumed for device in devices)
    print(
        f"seed {seed}: {len(devices)} devices, {sum(device.cuts for device in devices)} cuts, {resumed} resumed, "
        f"{sum(len(device.unrecovered) for device in devices)} not recovered, {sum(turns)} turns"
    )
    ledger.check(f"seed {seed}")
    return devices, resumed


async def test_a_device_that_goes_on_at_the_other_node_misses_nothing_and_is_shown_nothing_twice(
    new_cluster: NewCluster,
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await cut_off(cluster, talks=8, followers=4, cuts=6, mean=0.6, seed=2)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_five_hundred_devices_that_go_on_at_the_other_node_twenty_times_miss_nothing(
    new_cluster: NewCluster,
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await cut_off(cluster, talks=50, followers=9, cuts=20, mean=4.0, seed=21)


async def test_where_nodes_lose_pieces_the_devices_see_it(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, users=USERS, sabotage="lose-mirrored-pieces") as cluster:
        with pytest.raises(AssertionError, match="is no beginning of its answer"):
            await cut_off(cluster, talks=2, followers=1, cuts=3, mean=0.6, seed=3)
