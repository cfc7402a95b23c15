"""A message that is sent several times at once to different nodes, under one id, is one turn and is paid for once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import httpx2
import pytest

from tests.cluster.audit import Ledger, audited
from tests.cluster.conftest import NewCluster
from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Upstream, asking


async def sent_again_and_again(cluster: Cluster, ids: int, seed: int) -> tuple[Ledger, Counter[str]]:
    """Each id one to five times at once. The ledger, and how many different turns were named for each id."""
    await cluster.start()
    rng = random.Random(seed)
    urls = [node.url for node in cluster.nodes]
    answers: dict[str, list[dict[str, Any]]] = {}
    room = asyncio.Semaphore(40)

    async def send(http: httpx2.AsyncClient, id: str, url: str) -> None:
        body = {"id": id, "content": asking(id, pieces=3, interval=0.0)}
        answer = await http.post(f"{url}/api/claude/messages", json=body)
        assert answer.status_code == 202, (id, url, answer.status_code, answer.text)
        answers.setdefault(id, []).append(answer.json())

    async def one(http: httpx2.AsyncClient, number: int) -> None:
        async with room:
            first = rng.randrange(len(urls))
            times = rng.randint(1, 5)
            id = f"s{seed}-id{number}"
            await asyncio.gather(*(send(http, id, urls[(first + time) % len(urls)]) for time in range(times)))

    headers = {"Authorization": f"Bearer {cluster.tokens['alice']}"}
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False, limits=limits) as http:
        await asyncio.gather(*(one(http, number) for number in range(ids)))
    ledger = await audited(cluster, [])
    turns = Counter({id: len({answer["turn_id"] for answer in given}) for id, given in answers.items()})
    repeated = sum(len(given) for given in answers.values())
    print(
        f"seed {seed}: {ids} ids, sent {repeated} times: {len(ledger.rows)} turns, {len(cluster.upstream.calls)} calls"
    )
    return ledger, turns


async def one_turn_each(cluster: Cluster, ids: int, seed: int) -> None:
    ledger, turns = await sent_again_and_again(cluster, ids, seed)
    ledger.problems += [f"{id} was accepted as {count} turns" for id, count in turns.items() if count != 1]
    if len(ledger.rows) != ids or ledger.count("completed") != ids or len(cluster.upstream.calls) != ids:
        ledger.problems.append(
            f"{len(ledger.rows)} turns, {ledger.count('completed')} completed, {len(cluster.upstream.calls)} calls"
        )
    ledger.check(f"seed {seed}")


async def test_an_id_that_is_sent_to_several_nodes_at_once_is_one_turn_and_one_call(new_cluster: NewCluster) -> None:
    async with new_cluster() as cluster:
        await one_turn_each(cluster, 150, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_thousand_ids_that_are_sent_to_several_nodes_at_once_are_a_thousand_calls(
    new_cluster: NewCluster,
) -> None:
    async with new_cluster() as cluster:
        await one_turn_each(cluster, 1000, seed=31)


async def test_where_ids_are_not_kept_messages_become_several_turns(
    new_cluster: NewCluster, upstream: Upstream
) -> None:
    async with new_cluster(sabotage="forget-ids") as cluster:
        _, turns = await sent_again_and_again(cluster, 10, seed=4)
        assert len(upstream.calls) > 10
        assert max(turns.values()) > 1
