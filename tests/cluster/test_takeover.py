"""A node dies, or stands still and comes back, in the middle of a turn: the others end it, once, and go on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.client import place
from tests.cluster.audit import Ledger, at_rest, audited, rows
from tests.cluster.device import Device
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Paid, Upstream, asking, text_of
from tests.redis_server import RedisServer

LONG = asking("long", pieces=600, interval=0.02)


def two(folder: Path, database: str, redis: RedisServer, upstream: Upstream, **options: Any) -> Cluster:
    return Cluster(folder, database, redis, upstream, nodes=2, **options)


def devices_of(cluster: Cluster) -> tuple[Device, Device]:
    """One that stays on node `a`, and one that stays on `b`."""
    a, b = ([node.url] for node in cluster.nodes)
    token = cluster.tokens["alice"]
    return Device("near", a.copy, token, patience=None), Device("far", b.copy, token, patience=None)


async def speaking(near: Device, far: Device, upstream: Upstream) -> tuple[str, Paid]:
    """A long turn that runs on `a` and has said something to both."""
    sent = await near.send(LONG, thread_id="talk")
    far.expect(sent.turn_id, LONG)
    far.follow("talk")
    for device in (near, far):
        await device.until(lambda d=device: len(d.texts.get(sent.turn_id, "")) > 300, "some text")  # type: ignore[misc]
    paid = await upstream.called("long")
    assert paid.node == "a", "the node that accepts a turn runs it"
    return sent.turn_id, paid


async def test_a_killed_nodes_turn_is_interrupted_elsewhere_and_what_waits_goes_on(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream) as cluster:
        await cluster.start()
        near, far = devices_of(cluster)
        async with near, far:
            turn_id, _ = await speaking(near, far, upstream)
            behind = await far.send(asking("behind"), thread_id="talk")
            shown, old = far.texts[turn_id], far.client.cursors["talk"]
            killed_at = time.time()
            await cluster.node("a").kill()
            ending = await far.ended(turn_id)
            late = ending.at - killed_at
            print(f"interrupted {late:.2f} s behind the death of its node, {len(shown)} characters were shown before")
            assert (ending.status, ending.told_by) == ("interrupted", "snapshot")
            assert cluster.lease - 1 < late < cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS
            assert text_of(LONG).startswith(ending.content)
            assert len(ending.content) > 150, "what was durable is kept"
            assert (await far.ended(behind.turn_id)).status == "completed"
            assert place(far.client.cursors["talk"])[0] > place(old)[0]
            await cluster.node("a").start_soon()
            assert (await near.ended(turn_id)).content == ending.content
            retried = await cluster.node("a").post(f"/api/turns/{turn_id}/retry")
            assert retried.status_code == 202
            await upstream.until(lambda: len(upstream.by_marker()["long"]) == 2)
            await cluster.node("b").post(f"/api/turns/{retried.json()['turn_id']}/cancel")
            await at_rest(cluster.database_url)
            assert near.violations + far.violations == []


async def awoken(cluster: Cluster, upstream: Upstream) -> tuple[Ledger, Paid, Device, str]:
    """Node `a` stands still until `b` has ended its turn, and then wakes up."""
    await cluster.start()
    near, far = devices_of(cluster)
    async with near, far:
        turn_id, paid = await speaking(near, far, upstream)
        a = cluster.node("a")
        a.freeze()
        try:
            ending = await far.ended(turn_id, within=15)
            assert ending.status == "interrupted"
            assert (await rows(cluster.database_url))[turn_id].status == "interrupted"
        finally:
            a.thaw()
        await near.ended(turn_id, within=15)
        # Long enough for a zombie that believes in itself to end its turn.
        await upstream.until(lambda: paid.ended_at is not None, within=20)
        again = await near.send(asking("again"), thread_id="talk")
        await asyncio.gather(near.ended(again.turn_id), far.ended(again.turn_id))
        return await audited(cluster, [near, far]), paid, near, turn_id


async def test_a_zombie_is_told_that_it_was_replaced_and_takes_nothing_back(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream) as cluster:
        ledger, paid, near, turn_id = await awoken(cluster, upstream)
        ledger.check()
        assert paid.cut, "it stops to ask for what nobody wants any more"
        assert near.endings[turn_id].status == "interrupted"


async def test_a_zombie_that_nobody_stops_says_what_is_not_stored(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream, sabotage="no-fences") as cluster:
        try:
            ledger, paid, _, _ = await awoken(cluster, upstream)
        except (TimeoutError, AssertionError):
            return  # such as: its device never learns of the interruption
        assert ledger.problems or not paid.cut


async def test_without_a_claim_a_turn_is_paid_for_twice(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream, sabotage="no-claims") as cluster:
        await cluster.start()
        near, far = devices_of(cluster)
        async with near, far:
            await speaking(near, far, upstream)
            await cluster.node("a").kill()
            await upstream.until(lambda: bool(upstream.twice()), within=cluster.lease + TAKEOVER_SECONDS + 10)
        assert [call.node for call in upstream.calls] == ["a", "b"]


async def test_without_leases_a_dead_nodes_turn_never_ends(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream, sabotage="no-takeover") as cluster:
        await cluster.start()
        near, far = devices_of(cluster)
        async with near, far:
            turn_id, _ = await speaking(near, far, upstream)
            await cluster.node("a").kill()
            with pytest.raises(TimeoutError):
                await far.ended(turn_id, within=cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS)


async def test_when_all_nodes_have_died_what_they_ran_is_interrupted_once_one_is_back(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with two(tmp_path, database, redis, upstream) as cluster:
        await cluster.start()
        near, far = devices_of(cluster)
        async with near, far:
            turn_id, _ = await speaking(near, far, upstream)
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
