"""Postgres is gone for a while: nothing is accepted that is not stored, what runs goes on, and all heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from tests.client import Client
from tests.cluster.conftest import NewCluster
from tests.cluster.nodes import Cluster
from tests.cluster.outages import USERS, Outage, through
from tests.cluster.upstream import asking
from tests.postgres_server import PostgresServer

ANSWER_SECONDS = 6.0
"""Within which a node must say that it cannot."""


@contextlib.asynccontextmanager
async def asked(cluster: Cluster, outage: Outage) -> AsyncIterator[None]:
    """An outage at whose begin nothing is accepted, and reads are refused: both for now."""
    node = cluster.nodes[0]
    async with (
        httpx2.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http,
        Client(node.url, token=cluster.tokens["alice"], agent="claude") as phone,
    ):
        before = await phone.message(asking("before"), thread_id="probe")
        await phone.finish(before["turn_id"])
        headers = {"Authorization": f"Bearer {cluster.tokens['alice']}"}
        async with outage():
            async with asyncio.TaskGroup() as group:
                group.create_task(refused(phone))
                group.create_task(unread(http, f"{node.url}/api/threads", headers))
            yield


async def refused(phone: Client) -> None:
    await phone.send("message", content=asking("probe"), id="probe", thread_id="probe")
    frames = await phone.receive(until=lambda f: f["type"] in ("accepted", "error"), within=ANSWER_SECONDS)
    assert frames[-1]["type"] == "error", frames
    assert (frames[-1]["retryable"], frames[-1]["id"]) == (True, "probe"), frames[-1]


async def unread(http: httpx2.AsyncClient, url: str, headers: dict[str, str]) -> None:
    answer = await http.get(url, headers=headers)
    assert answer.status_code == 503, (answer.status_code, answer.text)
    assert answer.json()["error"]["retryable"] is True


async def without_postgres(cluster: Cluster, outage: Outage, seconds: float, seed: int) -> None:
    """Nothing is accepted, reads are refused, and what runs goes on and is stored behind it."""
    seen = await through(cluster, lambda: asked(cluster, outage), seconds, seed)
    seen.ledger.check(f"seed {seed}")
    assert seen.ledger.count("completed") == len(seen.ledger.rows), "what ran while it was down is stored behind it"
    assert seen.accepted == []
    for node in cluster.nodes:
        assert seen.during(node.name, settled=2.5) <= {(503, "unavailable")}, seen.health[node.name]
    assert any(code == 503 for said in seen.health.values() for _, code, _ in said)
    assert sum(seen.pieces_while_down(device) for device in seen.devices) > 10, "what runs goes on"


def gone(postgres: PostgresServer) -> Outage:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        await postgres.kill()
        try:
            yield
        finally:
            await postgres.restart()

    return outage


def still(postgres: PostgresServer) -> Outage:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        with postgres.frozen():
            yield

    return outage


async def test_while_postgres_is_down_nothing_is_accepted_and_what_runs_is_stored_afterwards(
    new_cluster: NewCluster, postgres: PostgresServer
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await without_postgres(cluster, gone(postgres), 3.5, seed=5)


async def test_a_node_that_accepts_what_it_cannot_store_is_found_out(
    new_cluster: NewCluster, postgres: PostgresServer
) -> None:
    async with new_cluster(nodes=1, sabotage="early-accepts") as cluster:
        await cluster.start()
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="'accepted'")):
            async with asked(cluster, gone(postgres)):
                pass


async def test_a_node_that_does_not_try_again_to_store_the_end_of_a_turn_is_found_out(
    new_cluster: NewCluster, postgres: PostgresServer
) -> None:
    async with new_cluster(nodes=2, lease=1.5, users=USERS, sabotage="give-up") as cluster:
        with pytest.raises(AssertionError, match="what ran while it was down is stored behind it"):
            await without_postgres(cluster, gone(postgres), 2.0, seed=5)


@pytest.mark.soak
@pytest.mark.parametrize("how", [gone, still])
async def test_while_postgres_is_down_for_ten_seconds_nothing_is_accepted(
    how: Callable[[PostgresServer], Outage], new_cluster: NewCluster, postgres: PostgresServer
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        await without_postgres(cluster, how(postgres), 10, seed=51)
