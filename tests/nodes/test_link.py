"""The link to Redis: whoever is cancelled in a command ends, whatever the moment."""

from __future__ import annotations

import asyncio

from gateway.nodes.link import RedisLink
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
