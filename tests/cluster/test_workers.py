"""Nodes that only serve in front of workers that only run turns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.cluster.audit import audited
from tests.cluster.device import Device
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Upstream, asking, text_of
from tests.redis_server import RedisServer


def worked(folder: Path, database: str, redis: RedisServer, upstream: Upstream, **options: Any) -> Cluster:
    return Cluster(folder, database, redis, upstream, nodes=1, workers=2, front={"RUN_TURNS": "false"}, **options)


def phone_of(cluster: Cluster) -> Device:
    return Device("phone", lambda: [node.url for node in cluster.nodes], cluster.tokens["alice"])


async def test_workers_run_every_turn_and_share_them(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with worked(tmp_path, database, redis, upstream) as cluster:
        await cluster.start()
        async with phone_of(cluster) as phone:
            sent = [await phone.send(asking(f"w{number}", 20, 0.05), thread_id=f"w{number}") for number in range(20)]
            for message in sent:
                assert (await phone.ended(message.turn_id)).status == "completed"
            ledger = await audited(cluster, [phone])
        ledger.check()
        assert {call.node for call in upstream.calls} == {"worker-a", "worker-b"}


async def test_without_a_worker_turns_wait_and_run_when_one_comes(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with worked(tmp_path, database, redis, upstream) as cluster:
        await cluster.nodes[0].start_soon()
        async with phone_of(cluster) as phone:
            sent = await phone.send(asking("early"), thread_id="early")
            await asyncio.sleep(cluster.lease)
            assert upstream.calls == [], "a node that only serves runs nothing"
            await cluster.workers[0].start_soon()
            assert (await phone.ended(sent.turn_id)).content == text_of(asking("early"))
            (await audited(cluster, [phone])).check()


async def test_a_worker_that_is_killed_leaves_its_turns_interrupted_and_the_next_ones_to_others(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with worked(tmp_path, database, redis, upstream) as cluster:
        await cluster.start()
        async with phone_of(cluster) as phone:
            sent = await phone.send(asking("long", 500, 0.02), thread_id="long")
            behind = await phone.send(asking("behind"), thread_id="long")
            paid = await upstream.called("long")
            await phone.until(lambda: len(phone.texts.get(sent.turn_id, "")) > 100, "some text")
            killed_at = time.time()
            await cluster.node(paid.node).kill()
            ending = await phone.ended(sent.turn_id)
            late = ending.at - killed_at
            print(f"interrupted {late:.2f} s behind the death of the worker")
            assert ending.status == "interrupted"
            assert late < cluster.lease + TAKEOVER_SECONDS + SLACK_SECONDS
            assert (await phone.ended(behind.turn_id)).status == "completed"
            assert (await upstream.called("behind")).node != paid.node
            (await audited(cluster, [phone])).check()


async def test_a_worker_that_is_asked_to_stop_ends_its_turns_and_takes_no_more(
    tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream
) -> None:
    async with worked(tmp_path, database, redis, upstream) as cluster:
        await cluster.start()
        async with phone_of(cluster) as phone:
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
            (await audited(cluster, [phone])).check()
