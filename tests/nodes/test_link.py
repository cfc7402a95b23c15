"""The link to Redis: whoever is cancelled in a command ends, and a broken connection is no more than that."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from gateway.nodes.link import RedisDown, RedisLink
from tests.redis_server import RedisServer


async def test_whoever_is_cancelled_in_a_command_ends_whatever_the_moment(redis: RedisServer) -> None:
    async def ask(link: RedisLink) -> None:
        while True:
            await link.run("PING")

    async with RedisLink(redis.url) as link:
        for steps in range(200):
            asking = asyncio.create_task(ask(link))
            for _ in range(steps % 40):
                await asyncio.sleep(0)
            asking.cancel()
            done, _ = await asyncio.wait({asking}, timeout=5)
            assert done, f"it goes on when it is cancelled at step {steps % 40}"
            assert asking.cancelled()
        assert await link.run("PING") is not None


def test_a_write_to_a_connection_that_was_just_closed_counts_as_redis_down_on_uvloop_too(redis: RedisServer) -> None:
    """uvloop has a RuntimeError for it where asyncio has an OSError, and redis-py lets that through."""

    async def scene() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", redis.port)
        writer.transport.abort()

        async def write() -> None:
            writer.writelines([b"PING\r\n"])
            await writer.drain()

        async def other() -> None:
            raise RuntimeError("of some other kind")

        async with RedisLink(redis.url) as link:
            await link.run("PING")
            with pytest.raises(RedisDown):
                await link.ask(write())
            assert not link.up
            with pytest.raises(RuntimeError, match="other kind"):
                await link.ask(other())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
