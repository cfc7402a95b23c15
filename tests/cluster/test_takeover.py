"""A node dies, or stands still and comes back, in the middle of a turn: the others end it, once, and go on."""

from __future__ import annotations

import asyncio

import pytest

from tests.client import place
from tests.cluster.audit import at_rest, audited, payments, rows, stored_up_to
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster
from tests.cluster.talk import LONG, killed_within, near_and_far, speaking
from tests.cluster.upstream import Paid, Upstream, asking, text_of
from tests.redis_server import RedisServer


async def test_a_killed_nodes_turn_is_interrupted_elsewhere_and_what_waits_goes_on(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(nodes=2) as cluster, near_and_far(cluster) as (near, far):
        turn_id, _ = await speaking(cluster, near, far)
        behind = await far.send(asking("behind"), thread_id="talk")
        old = far.client.cursors["talk"]
        ending = await killed_within(cluster, "a", far, turn_id, behind.turn_id)
        assert ending.told_by == "snapshot"
        assert text_of(LONG).startswith(ending.content)
        assert len(ending.content) > 150, "what was durable is kept"
        assert place(far.client.cursors["talk"])[0] > place(old)[0]
        await cluster.node("a").start_soon()
        assert (await near.ended(turn_id)).content == ending.content
        retried = await cluster.node("a").post(f"/api/turns/{turn_id}/retry")
        assert retried.status_code == 202
        await upstream.until(lambda: len(upstream.by_marker()["long"]) == 2)
        await cluster.node("b").post(f"/api/turns/{retried.json()['turn_id']}/cancel")
        await at_rest(cluster.database_url)
        assert near.violations + far.violations == []


async def awoken(cluster: Cluster, near: Device, far: Device) -> tuple[str, Paid]:
    """Node `a` stands still until `b` has ended its turn, and then wakes up, with all that came from the upstream."""
    cluster.upstream.hold()
    turn_id, paid = await speaking(cluster, near, far, shown=0)
    await stored_up_to(cluster.database_url, "talk", place(near.client.cursors["talk"])[1])
    with cluster.node("a").frozen():
        cluster.upstream.let_go()
        ending = await far.ended(turn_id, within=15)
        assert ending.status == "interrupted"
        assert (await rows(cluster.database_url))[turn_id].status == "interrupted"
    return turn_id, paid


async def test_a_zombie_is_told_that_it_was_replaced_and_takes_nothing_back(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(nodes=2) as cluster, near_and_far(cluster) as (near, far):
        turn_id, paid = await awoken(cluster, near, far)
        assert (await near.ended(turn_id, within=15)).status == "interrupted"
        await upstream.until(lambda: paid.ended_at is not None)
        assert paid.cut, "it stops to ask for what nobody wants any more"
        again = await near.send(asking("again"), thread_id="talk")
        await asyncio.gather(near.ended(again.turn_id), far.ended(again.turn_id))
        (await audited(cluster, [near, far])).check()


async def test_without_a_new_epoch_a_zombies_text_is_shown_behind_the_end_of_its_turn(new_cluster: NewCluster) -> None:
    async with (
        new_cluster(nodes=2, lease=1.5, sabotage="no-epochs") as cluster,
        near_and_far(cluster) as (near, far),
    ):
        await awoken(cluster, near, far)
        await far.until(lambda: bool(far.violations), "it is shown what it must not see")
        with pytest.raises(AssertionError, match="a frame of a turn that is done"):
            (await audited(cluster, [near, far])).check()


@pytest.mark.parametrize("how", ["killed", "apart from Redis"])
async def test_without_a_claim_a_turn_is_paid_for_twice(how: str, new_cluster: NewCluster, upstream: Upstream) -> None:
    async with (
        new_cluster(nodes=2, lease=1.5, wires=True, sabotage="no-claims") as cluster,
        near_and_far(cluster) as (near, far),
    ):
        await speaking(cluster, near, far)
        a = cluster.node("a")
        if how == "killed":
            await a.kill()
        else:
            a.redis.cut()
        await upstream.until(lambda: bool(upstream.twice()), within=cluster.lease + TAKEOVER_SECONDS + 10)
        assert payments(cluster) == ["long was paid for 2 times, on ['a', 'b']"]


async def test_without_leases_a_dead_nodes_turn_never_ends(new_cluster: NewCluster) -> None:
    async with new_cluster(nodes=2, lease=1.5, sabotage="no-takeover") as cluster, near_and_far(cluster) as (near, far):
        turn_id, _ = await speaking(cluster, near, far)
        await cluster.node("a").kill()
        with pytest.raises(TimeoutError):
            await far.ended(turn_id, within=cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS)


async def test_when_all_nodes_have_died_what_they_ran_is_interrupted_once_one_is_back(
    new_cluster: NewCluster, redis: RedisServer
) -> None:
    async with new_cluster(nodes=2) as cluster, near_and_far(cluster) as (near, far):
        turn_id, _ = await speaking(cluster, near, far)
        behind = await near.send(asking("behind"), thread_id="talk")
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        redis.kill_now()
        redis.forget()
        await redis.start_soon()
        await cluster.node("b").start_soon()
        assert (await far.ended(turn_id, within=15)).status == "interrupted"
        await at_rest(cluster.database_url)
        assert (await rows(cluster.database_url))[behind.turn_id].status == "completed"
        await cluster.node("a").start_soon()
        await near.ended(behind.turn_id)
        (await audited(cluster, [near, far])).check()
