"""Redis is gone for a while: nothing is lost, nothing that runs is given up, and all heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster
from tests.cluster.outages import USERS, Outage, through
from tests.cluster.upstream import Upstream, asking
from tests.redis_server import RedisServer


def killed(redis: RedisServer) -> Outage:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        await redis.kill()
        try:
            yield
        finally:
            await redis.restart()

    return outage


def emptied(redis: RedisServer) -> Outage:
    """Killed, and all that it had is lost."""

    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        await redis.kill()
        redis.forget()
        try:
            yield
        finally:
            await redis.restart()

    return outage


def frozen(redis: RedisServer) -> Outage:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        with redis.frozen():
            yield

    return outage


async def without_redis(cluster: Cluster, outage: Outage, seconds: float, seed: int) -> None:
    """Nothing is lost, nothing that runs is given up, and nodes say that they are not what they should be."""
    seen = await through(cluster, outage, seconds, seed)
    seen.ledger.check(f"seed {seed}")
    interrupted = [row for row in seen.ledger.rows.values() if row.status == "interrupted"]
    assert not interrupted, f"their nodes lived: {interrupted}"
    assert seen.ledger.count("completed") == len(seen.ledger.rows)
    for node in cluster.nodes:
        said = seen.during(node.name, settled=seconds - 0.5)
        assert said <= {(200, "degraded")}, f"node {node.name} said {said}"
        assert (200, "degraded") in seen.during(node.name)
    assert sum(seen.pieces_while_down(device) for device in seen.devices) > 10, (
        "devices at the node that runs it read on"
    )


@pytest.mark.parametrize("how", [killed, frozen, emptied])
async def test_while_redis_is_down_turns_go_on_and_nothing_is_lost(
    how: Callable[[RedisServer], Outage], new_cluster: NewCluster, redis: RedisServer
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await without_redis(cluster, how(redis), 4.0, seed=6)


@pytest.mark.soak
@pytest.mark.parametrize("how", [killed, frozen, emptied])
async def test_while_redis_is_down_for_ten_seconds_turns_go_on_and_nothing_is_lost(
    how: Callable[[RedisServer], Outage], new_cluster: NewCluster, redis: RedisServer
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await without_redis(cluster, how(redis), 10, seed=61)


async def accepted_without_redis(cluster: Cluster, within: float) -> str:
    """A turn that is accepted while Redis is down: how it ends, soon after Redis is back."""
    await cluster.start()
    async with Device("phone", lambda: [cluster.nodes[0].url], cluster.tokens["alice"], patience=None) as phone:
        await phone.until(lambda: phone.connected, "connected")
        await cluster.redis.kill()
        sent = await phone.send(asking("unheard"), thread_id="unheard")
        await cluster.redis.restart()
        return (await phone.ended(sent.turn_id, within=within)).status


async def test_a_turn_that_redis_has_never_heard_of_is_run_once_it_is_back(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(nodes=2) as cluster:
        assert await accepted_without_redis(cluster, 15) == "completed"
        assert upstream.twice() == {}


async def test_without_a_sweeper_a_turn_that_redis_has_never_heard_of_waits_for_ever(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, sabotage="no-sweeper") as cluster:
        with pytest.raises(TimeoutError):
            await accepted_without_redis(cluster, 6)


async def mended_one_after_the_other(cluster: Cluster) -> str:
    """Both nodes are without Redis for longer than a lease, and that which runs a turn for a moment more. How it ends.

    The moment is longer than it takes to see that the lease has run out, and shorter than the pause.
    """
    await cluster.start()
    a, b = cluster.nodes
    cluster.upstream.hold()
    async with Device("phone", lambda: [a.url], cluster.tokens["alice"], patience=None) as phone:
        sent = await phone.send(asking("kept", pieces=15, interval=0.1), thread_id="kept")
        await cluster.upstream.called("kept")
        a.redis.cut()
        b.redis.cut()
        await asyncio.sleep(cluster.lease + 0.3)
        async with b.logging("redis_up"):
            b.redis.mend()
        await asyncio.sleep(0.8)
        a.redis.mend()
        cluster.upstream.let_go()  # the rest takes longer than the pause
        return (await phone.ended(sent.turn_id, within=15)).status


async def test_behind_an_outage_of_redis_those_who_live_say_so_before_anything_is_taken_over(
    new_cluster: NewCluster,
) -> None:
    async with new_cluster(nodes=2, lease=1.5, wires=True) as cluster:
        assert await mended_one_after_the_other(cluster) == "completed"


async def test_without_a_pause_behind_an_outage_a_turn_is_taken_from_a_node_that_lives(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, lease=1.5, wires=True, sabotage="no-pause") as cluster:
        assert await mended_one_after_the_other(cluster) == "interrupted"
