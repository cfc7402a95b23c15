"""A device on another node is shown a piece of text hardly later than one on the node that runs the turn."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tests.client import Client, place
from tests.cluster.conftest import NewCluster
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Upstream, asking

MEDIAN_SECONDS = 0.025
"""Generous: the machine does other things, too. Alone, it is a few milliseconds."""


async def lags(cluster: Cluster, upstream: Upstream, threads: int, pieces: int, interval: float) -> list[float]:
    """For every piece of text: how much later it came to a device on the other node. Sorted."""
    a, b = cluster.nodes

    async def one(number: int) -> list[float]:
        token = cluster.tokens["alice"]
        async with Client(a.url, token=token, agent="claude") as near, Client(b.url, token=token) as far:
            content = asking(f"lag{number}", pieces, interval)
            accepted = await near.message(content, thread_id=f"lag{number}")
            await far.attach(accepted["thread_id"], accepted["cursor"])
            await asyncio.gather(*(end.finish(accepted["turn_id"], within=60) for end in (near, far)))
            assert (await upstream.called(f"lag{number}")).node == "a", "the node that accepts it runs it"
            return differences(near, far)

    found = await asyncio.gather(*(one(number) for number in range(threads)))
    return sorted(lag for some in found for lag in some)


def differences(near: Client, far: Client) -> list[float]:
    """One device may be shown several pieces as one: each piece came with the first frame at or behind its place."""

    def arrivals(client: Client) -> dict[int, float]:
        found: dict[int, float] = {}
        last = None
        for frame, at in zip(client.frames, client.arrivals, strict=True):
            if frame["type"] == "message":
                here = place(frame["cursor"])[1]
                for offset in range(here if last is None else last + 1, here + 1):
                    found[offset] = at
                last = here
        return found

    one, other = arrivals(near), arrivals(far)
    return [other[offset] - one[offset] for offset in one if offset in other]


async def test_text_reaches_the_other_node_at_once(new_cluster: NewCluster, upstream: Upstream) -> None:
    async with new_cluster(nodes=2) as cluster:
        await cluster.start()
        await lags(cluster, upstream, 1, 20, 0.0)
        upstream.calls.clear()
        found = await lags(cluster, upstream, 3, 100, 0.03)
        told(found)
        assert len(found) > 200
        assert statistics.median(found) < MEDIAN_SECONDS


async def test_where_nodes_poll_for_news_it_is_late(new_cluster: NewCluster, upstream: Upstream) -> None:
    async with new_cluster(nodes=2, sabotage="polling") as cluster:
        await cluster.start()
        found = await lags(cluster, upstream, 1, 60, 0.03)
        told(found)
        assert statistics.median(found) > MEDIAN_SECONDS


@pytest.mark.soak
@pytest.mark.parametrize("threads", [1, 10, 50])
async def test_text_reaches_the_other_node_at_once_also_in_many_threads(
    threads: int, new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(nodes=2) as cluster:
        await cluster.start()
        await lags(cluster, upstream, 1, 20, 0.0)
        upstream.calls.clear()
        found = await lags(cluster, upstream, threads, 300, 0.05)
        told(found)
        assert statistics.median(found) < MEDIAN_SECONDS


def told(found: list[float]) -> None:
    median, late = statistics.median(found), found[int(len(found) * 0.99)]
    print(
        f"{len(found)} pieces: median {median * 1000:.2f} ms, p99 {late * 1000:.2f} ms, last {found[-1] * 1000:.2f} ms"
    )
