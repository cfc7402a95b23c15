"""Postgres or Redis is gone for a while, for all nodes or for one: what was accepted stays, and all heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.client import Client
from tests.cluster.audit import Ledger, audited
from tests.cluster.conftest import NewCluster
from tests.cluster.device import Device
from tests.cluster.faults import SLACK_SECONDS, TAKEOVER_SECONDS
from tests.cluster.nodes import Cluster, Node
from tests.cluster.talk import near_and_far, speaking
from tests.cluster.upstream import Upstream, asking
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

USERS = [f"user{number}" for number in range(4)]
ANSWER_SECONDS = 6.0
"""Within which a node must say that it cannot."""
HEALED_SECONDS = 10.0
"""Within which everything must be as before, once what was gone is back."""

Outage = Callable[[], AbstractAsyncContextManager[None]]


@dataclass
class Seen:
    """What was found while devices talked through an outage."""

    ledger: Ledger
    devices: list[Device]
    begin: float
    end: float
    """Of the outage, as `time.time()`."""
    health: dict[str, list[tuple[float, int, str]]] = field(default_factory=dict)
    """By node: when, HTTP status, status in words."""
    healed: float = 0.0
    """Seconds from the end of the outage until every node was well."""

    def during(self, node: str, settled: float = 1.0) -> set[tuple[int, str]]:
        """What the node said of itself during the outage, but for its begin."""
        return {(code, said) for at, code, said in self.health[node] if self.begin + settled < at < self.end}

    @property
    def accepted(self) -> list[str]:
        """What was accepted during the outage."""
        return [s.id for d in self.devices for s in d.sent if self.begin + 0.2 < s.at < self.end]

    def pieces_while_down(self, device: Device) -> int:
        """How many frames of text came to the device during the outage."""
        frames = zip(device.client.frames, device.client.arrivals, strict=True)
        offset = time.time() - time.monotonic()
        return sum(f["type"] == "message" and self.begin + 0.5 < at + offset < self.end for f, at in frames)


async def watching(node: Node, seen: list[tuple[float, int, str]]) -> None:
    """Ask for its health until cancelled."""
    async with httpx2.AsyncClient(timeout=8, trust_env=False) as http:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = await http.get(f"{node.url}/api/health")
                seen.append((time.time(), answer.status_code, answer.json()["status"]))
            await asyncio.sleep(0.2)


async def talking(device: Device, over: asyncio.Event, seed: int, longest: int) -> None:
    rng = random.Random(f"{seed} {device.name}")
    number = 0
    while number == 0 or not over.is_set():
        marker = f"s{seed}-{device.name}-{number}"
        content = asking(marker, pieces=rng.randint(10, longest), interval=0.05)
        sent = await device.send(content, thread_id=f"{device.name}-{number % 2}", id=marker, within=60)
        number += 1
        if rng.random() < 0.5:
            await device.ended(sent.turn_id, within=60)
        await asyncio.sleep(rng.uniform(0.1, 0.6))
    for sent in device.sent:
        await device.ended(sent.turn_id, within=60)


async def through(cluster: Cluster, outage: Outage, seconds: float, seed: int, longest: int | None = None) -> Seen:
    """Devices that stay on their nodes talk before, during and behind an outage. Everything is audited.

    An answer has at most `longest` pieces, twenty of them in a second; as many as the outage lasts and more, if that
    is not given.
    """
    longest = longest or round(30 * seconds)
    await cluster.start()
    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        devices = []
        for number, user in enumerate(USERS):
            here = [cluster.nodes[number % len(cluster.nodes)].url]
            device = Device(f"phone{number}", here.copy, cluster.tokens[user], seed=seed, patience=None)
            devices.append(await stack.enter_async_context(device))
        health: dict[str, list[tuple[float, int, str]]] = {node.name: [] for node in cluster.nodes}
        watches = [asyncio.create_task(watching(node, health[node.name])) for node in cluster.nodes]
        stack.callback(lambda: [watch.cancel() for watch in watches])
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(talking(device, over, seed, longest))
            await asyncio.sleep(1.5)
            begin = time.time()
            async with outage():
                await asyncio.sleep(seconds)
                end = time.time()
            healed = await all_well(health)
            over.set()
        ledger = await audited(cluster, devices)
    seen = Seen(ledger, devices, begin, end, health, healed - end)
    said = {name: sorted(seen.during(name)) for name in health}
    print(
        f"seed {seed}: down for {end - begin:.1f} s: {len(ledger.rows)} turns, {ledger.count('completed')} completed, "
        f"{ledger.count('interrupted')} interrupted, {len(seen.accepted)} accepted meanwhile, "
        f"health {said}, well {seen.healed:.1f} s behind"
    )
    return seen


async def all_well(health: dict[str, list[tuple[float, int, str]]]) -> float:
    """When all nodes were well again."""
    since = time.time()
    deadline = time.monotonic() + HEALED_SECONDS
    while True:
        if all(seen and seen[-1][0] > since and seen[-1][2] == "ok" for seen in health.values()):
            return time.time()
        assert time.monotonic() < deadline, f"not well: { {name: seen[-2:] for name, seen in health.items()} }"
        await asyncio.sleep(0.05)


# --- Postgres ---


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


# --- Redis ---


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


# --- one node apart ---


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


# --- failing over ---


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
