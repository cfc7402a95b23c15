"""Nodes that only serve in front of workers that only run turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.cluster.audit import audited
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.nodes import Cluster
from tests.cluster.talk import killed_within
from tests.cluster.upstream import Upstream, asking, text_of


@contextlib.asynccontextmanager
async def worked(new_cluster: NewCluster, *, started: bool = True) -> AsyncIterator[tuple[Cluster, Device]]:
    """One node that serves, two workers, of which none runs unless `started`, and a phone. What it saw is audited."""
    async with new_cluster(nodes=1, workers=2, front={"RUN_TURNS": "false"}) as cluster:
        await (cluster.start() if started else cluster.nodes[0].start_soon())
        async with Device("phone", lambda: [cluster.nodes[0].url], cluster.tokens["alice"]) as phone:
            yield cluster, phone
            (await audited(cluster, [phone])).check()


async def test_workers_run_every_turn_and_share_them(new_cluster: NewCluster, upstream: Upstream) -> None:
    async with worked(new_cluster) as (_, phone):
        sent = [await phone.send(asking(f"w{number}", 20, 0.05), thread_id=f"w{number}") for number in range(20)]
        for message in sent:
            assert (await phone.ended(message.turn_id)).status == "completed"
    assert {call.node for call in upstream.calls} == {"worker-a", "worker-b"}


async def test_without_a_worker_turns_wait_and_run_when_one_comes(new_cluster: NewCluster, upstream: Upstream) -> None:
    async with worked(new_cluster, started=False) as (cluster, phone):
        sent = await phone.send(asking("early"), thread_id="early")
        await asyncio.sleep(cluster.lease)
        assert upstream.calls == [], "a node that only serves runs nothing"
        await cluster.workers[0].start_soon()
        assert (await phone.ended(sent.turn_id)).content == text_of(asking("early"))


async def test_a_worker_that_is_killed_leaves_its_turns_interrupted_and_the_next_ones_to_others(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with worked(new_cluster) as (cluster, phone):
        sent = await phone.send(asking("long", 500, 0.02), thread_id="long")
        behind = await phone.send(asking("behind"), thread_id="long")
        paid = await upstream.called("long")
        await phone.until(lambda: len(phone.texts.get(sent.turn_id, "")) > 100, "some text")
        await killed_within(cluster, paid.node, phone, sent.turn_id, behind.turn_id)
        assert (await upstream.called("behind")).node != paid.node


async def test_a_worker_that_is_asked_to_stop_ends_its_turns_and_takes_no_more(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with worked(new_cluster) as (cluster, phone):
        sent = await phone.send(asking("drained", 100, 0.03), thread_id="drained")
        behind = await phone.send(asking("after"), thread_id="drained")
        paid = await upstream.called("drained")
        worker = cluster.node(paid.node)
        worker.terminate()
        assert await worker.exited(within=20) == 0
        assert (await phone.ended(sent.turn_id)).status == "completed"
        assert (await phone.ended(behind.turn_id)).status == "completed"
        assert (await upstream.called("after")).node != paid.node
        assert phone.unrecovered == []
