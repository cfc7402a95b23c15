"""Redis forgets while everybody is connected to it, or has no room: the truth is in Postgres, and all goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.cluster.conftest import NewCluster
from tests.cluster.outages import USERS, Outage, through
from tests.redis_server import RedisServer


def flushed(redis: RedisServer) -> Outage:
    """All that it has is gone, again and again; nobody's connection is."""

    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        async def flush() -> None:
            while True:
                await asyncio.to_thread(redis.command, "FLUSHALL")
                await asyncio.sleep(0.7)

        flushing = asyncio.create_task(flush())
        try:
            yield
        finally:
            flushing.cancel()
            await asyncio.wait({flushing})

    return outage


def put_back(redis: RedisServer) -> Outage:
    """It is killed, and comes back with what it had a while before: as with snapshots alone, or from a backup."""

    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        written = redis.folder / "appendonly.aof"
        before = written.read_bytes()
        await asyncio.sleep(1.5)
        await redis.kill()
        written.write_bytes(before)
        await redis.restart()
        yield

    return outage


def full(redis: RedisServer) -> Outage:
    """It takes nothing more."""
    return _limited(redis, "noeviction")


def evicting(redis: RedisServer) -> Outage:
    """It forgets whatever it has, to take something more."""
    return _limited(redis, "allkeys-random")


def _limited(redis: RedisServer, policy: str) -> Outage:
    @contextlib.asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        await asyncio.to_thread(redis.command, "CONFIG", "SET", "maxmemory-policy", policy)
        await asyncio.to_thread(redis.command, "CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            await asyncio.to_thread(redis.command, "CONFIG", "SET", "maxmemory", "0")

    return outage


@pytest.mark.parametrize("how", [flushed, put_back, full, evicting])
async def test_whatever_redis_loses_every_accepted_turn_is_completed_once(
    how: Callable[[RedisServer], Outage], new_cluster: NewCluster, redis: RedisServer
) -> None:
    async with new_cluster(nodes=2, users=USERS) as cluster:
        seen = await through(cluster, how(redis), 3.0, seed=11)
        seen.ledger.check(f"{how.__name__}")
        assert seen.accepted, "messages are taken all the while"
        assert seen.ledger.count("completed") == len(seen.ledger.rows), "no turn is given up"
