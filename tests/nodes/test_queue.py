"""The queue of turns and its leases, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from redis.exceptions import ResponseError

from gateway.nodes.link import RedisDown, RedisLink
from gateway.nodes.queue import Entry, TurnQueue
from tests.nodes.conftest import eventually
from tests.redis_server import RedisServer


async def taken(link: RedisLink, queue: TurnQueue, turn_ids: Sequence[str]) -> list[Entry]:
    """Queue these, and take them all."""
    await queue.enqueue(turn_ids)
    async with link.reader() as reader:
        entries: list[Entry] = []
        while len(entries) < len(turn_ids):
            entries += await queue.take(reader, 500)
    return entries


async def test_a_dead_nodes_turns_are_found_behind_thousands_that_live(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as lives, RedisLink(redis.url) as dies, RedisLink(redis.url) as third:
        busy = await taken(lives, TurnQueue(lives), [f"u-{number}" for number in range(2500)])
        dead = await taken(dies, TurnQueue(dies), ["u-x", "u-y"])
        await asyncio.sleep(0.3)
        assert await TurnQueue(lives).beat(busy) == []
        assert await TurnQueue(third).overdue(250) == dead


@pytest.mark.parametrize(("configured", "value"), [("maxmemory", "1"), ("min-replicas-to-write", "1")])
async def test_a_redis_that_takes_no_writes_is_down_until_it_does(
    redis: RedisServer, configured: str, value: str
) -> None:
    async with RedisLink(redis.url) as link:
        queue = TurnQueue(link)
        await queue.enqueue(["u-0"])
        redis.command("CONFIG", "SET", configured, value)
        with pytest.raises(RedisDown):
            await queue.enqueue_and_take("u-1")
        assert not link.up
        pipeline = link.client.pipeline(transaction=False)
        pipeline.execute_command("XADD", "s", "*", "word", "READONLY")
        with pytest.raises(RedisDown):
            await link.ask(pipeline.execute())
        redis.command("CONFIG", "SET", configured, "0")
        assert await queue.enqueue_and_take("u-1") is not None
        assert link.up


async def test_a_read_that_waits_when_the_primary_becomes_a_replica_finds_redis_down(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as link, link.reader() as reader:
        queue = TurnQueue(link)
        await taken(link, queue, ["u-0"])
        reading = asyncio.create_task(queue.take(reader, 1))
        await eventually(lambda: b"blocked_clients:1" in bytes(redis.command("INFO", "clients") or b""))
        redis.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisDown):
            await reading
        redis.command("REPLICAOF", "NO", "ONE")
        assert await queue.enqueue_and_take("u-1") is not None


async def test_what_redis_does_not_understand_is_told_as_it_is(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as link:
        with pytest.raises(ResponseError):
            await link.run("NOSUCHCOMMAND")
        assert await link.run("SET", "s", "1") is not None
        with pytest.raises(ResponseError):
            await link.run("XRANGE", "s", "-", "+")
        pipeline = link.client.pipeline(transaction=False)
        pipeline.execute_command("XRANGE", "s", "-", "+")
        with pytest.raises(ResponseError):
            await link.ask(pipeline.execute())
        assert link.up
