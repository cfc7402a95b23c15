"""The link to Redis: whoever is cancelled in a command ends, whatever the moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.nodes.link import ANSWER_SECONDS, RedisDown, RedisLink
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


async def test_a_frozen_redis_counts_as_down_in_time(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as link:
        await link.run("PING")
        with redis.frozen():
            for _ in range(2):  # on a connection that was open, and on a new one
                began = time.monotonic()
                with pytest.raises(RedisDown):
                    await link.run("PING")
                assert time.monotonic() - began < ANSWER_SECONDS + 0.5
                assert not link.up
        assert await link.run("PING") is not None
        assert link.up
