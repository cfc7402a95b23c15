"""One node alone does not reach Redis, or Postgres."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.cluster.conftest import NewCluster
from tests.cluster.nodes import Cluster
from tests.cluster.outages import USERS, Seen, through
from tests.cluster.upstream import Upstream


async def apart(cluster: Cluster, from_redis: bool, quietly: bool, seconds: float, seed: int) -> Seen:
    """Node `a` is cut off, or nothing of what it sends arrives, without anybody being told."""

    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        wire = cluster.node("a").redis if from_redis else cluster.node("a").postgres
        wire.pause() if quietly else wire.cut()
        try:
            yield
        finally:
            wire.mend()

    seen = await through(cluster, outage, seconds, seed, longest=160)
    seen.ledger.check(f"seed {seed}")
    return seen


@pytest.mark.parametrize("quietly", [False, True])
async def test_a_node_apart_from_redis_is_replaced_and_nothing_is_lost_or_paid_for_twice(
    quietly: bool, new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(nodes=2, users=USERS, wires=True) as cluster:
        seen = await apart(cluster, True, quietly, 4.0, seed=7)
        on_b = [c.marker for c in upstream.calls if c.node == "b"]
        lost = [r.marker for r in seen.ledger.rows.values() if r.status == "interrupted" and r.marker in on_b]
        assert not lost, "node b had its Redis all the while"


async def test_a_node_apart_from_postgres_keeps_its_turns_and_stores_them_later(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, users=USERS, wires=True) as cluster:
        seen = await apart(cluster, False, False, 4.0, seed=8)
        assert seen.ledger.count("completed") == len(seen.ledger.rows)
