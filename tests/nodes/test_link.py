"""The link to Redis: who is cancelled in a command ends, answers are never mixed up, and what counts as down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

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


async def test_a_line_gives_each_request_its_own_answers(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as link, link.line() as line:
        first, refused, last = await line.ask(("SET", "key", 1), ("INCRBY", "key", "x"), ("GET", "key"))
        assert isinstance(refused, ResponseError)
        assert (first, last) == (b"OK", b"1")
        for moment in range(40):
            asking = asyncio.create_task(line.ask(("GET", "key")))
            for _ in range(moment % 20):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking}, timeout=5)
            assert await line.ask(("ECHO", f"{moment}")) == [f"{moment}".encode()]
        with redis.frozen(), pytest.raises(RedisDown):
            await line.ask(("ECHO", "late"), seconds=0.1)
        assert not link.up
        assert await line.ask(("ECHO", "again")) == [b"again"]
        assert link.up


async def test_a_line_is_opened_anew_when_redis_is_back(redis: RedisServer) -> None:
    async with RedisLink(redis.url) as link, link.line() as line:
        await line.ask(("PING",))
        await redis.kill()
        with pytest.raises(RedisDown):
            await line.ask(("PING",))
        await redis.restart()
        assert await line.ask(("PING",)) == [b"PONG"]


@pytest.mark.parametrize("through", ["the pool", "a script", "a line"])
async def test_a_redis_without_room_counts_as_down(redis: RedisServer, through: str) -> None:
    async with RedisLink(redis.url) as link, link.line() as line:
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "the pool": lambda: link.run("SET", "key", "1"),
            "a script": lambda: link.run("EVAL", "return redis.call('SET', KEYS[1], '1')", 1, "key"),
            "a line": lambda: line.ask(("SET", "key", "1")),
        }
        redis.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisDown):
            await asked[through]()
        assert not link.up
        redis.command("CONFIG", "SET", "maxmemory", "0")
        await asked[through]()
        assert link.up
