"""Redis dies, and its replica, which lacks the last writes, takes its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.conftest import NewCluster
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster
from tests.cluster.outages import USERS, Seen, through
from tests.cluster.talk import near_and_far, speaking
from tests.redis_server import RedisServer


async def failed_over(cluster: Cluster, folder: Path, behind: float, seed: int) -> Seen:
    """Redis dies, and its replica, which lacks what was written in the last `behind` seconds, takes its place."""
    redis = cluster.redis
    with RedisServer(folder / "replica", replica_of=redis) as replica:

        @contextlib.asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            await asyncio.to_thread(replica.await_replication)
            await asyncio.to_thread(replica.promote)
            await asyncio.sleep(behind)
            await redis.kill()
            yield
            for node in cluster.all:
                node.redis.switch(replica.port)

        seen = await through(cluster, outage, 1.0, seed)
    seen.ledger.check(f"seed {seed}")
    return seen


async def test_a_failover_to_a_replica_that_lacks_the_last_writes_loses_no_turn(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    async with new_cluster(nodes=2, users=USERS, wires=True) as cluster:
        seen = await failed_over(cluster, tmp_path, 0.2, seed=9)
        interrupted = [row for row in seen.ledger.rows.values() if row.status == "interrupted"]
        assert not interrupted, f"their nodes lived: {interrupted}"


async def died_behind_a_failover(cluster: Cluster, folder: Path) -> str:
    """`a` begins a turn of which the replica never hears, goes on behind the failover, and dies. How the turn ends."""
    a, b = cluster.nodes
    async with near_and_far(cluster) as (near, far):
        with RedisServer(folder / "replica", replica_of=cluster.redis) as replica:
            await asyncio.to_thread(replica.await_replication)
            await asyncio.to_thread(replica.promote)
            turn_id, _ = await speaking(cluster, near, far)
            await cluster.redis.kill()
            async with a.logging("redis_up"), b.logging("redis_up"):
                a.redis.switch(replica.port)
                b.redis.switch(replica.port)
            await asyncio.sleep(cluster.lease / 2)  # it has said twice that it lives
            await a.kill()
            return (await far.ended(turn_id, within=cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS)).status


async def test_what_runs_when_redis_fails_over_is_interrupted_if_its_node_dies_behind_that(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    async with new_cluster(nodes=2, lease=1.5, wires=True) as cluster:
        assert await died_behind_a_failover(cluster, tmp_path) == "interrupted"


async def test_if_nobody_tells_redis_anew_what_it_has_lost_a_turn_never_ends(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    async with new_cluster(nodes=2, lease=1.5, wires=True, sabotage="no-sweeper+no-keep") as cluster:
        with pytest.raises(TimeoutError, match="has ended"):
            await died_behind_a_failover(cluster, tmp_path)
