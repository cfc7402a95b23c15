"""The link to Redis: who is cancelled in a command ends, answers are never mixed up, and what counts as down."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.exceptions import ResponseError

from gateway.nodes.link import RedisDown, RedisLink
from tests.fakes.push_tls import make_authority
from tests.nodes.conftest import eventually
from tests.redis_server import RedisServer
from tests.wire import Wire


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


async def test_of_connections_that_broke_in_their_sleep_one_command_fails(redis: RedisServer) -> None:
    async with Wire(redis.port) as wire, RedisLink(f"redis://127.0.0.1:{wire.port}/0") as link:
        await asyncio.gather(*(link.run("PING") for _ in range(20)))
        assert wire.open == 20
        wire.reset()
        await eventually(lambda: not wire.open)
        with pytest.raises(RedisDown):
            await link.run("PING")
        assert len(await asyncio.gather(*(link.run("PING") for _ in range(20)))) == 20


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


async def test_redis_may_be_reached_through_a_socket_of_the_file_system() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,  # a socket's path has 107 characters at most
        RedisServer(Path(folder), options={"unixsocket": f"{folder}/s"}),
    ):
        async with RedisLink(f"unix://{folder}/s?db=1") as link, link.reader() as reader:
            await link.run("XADD", "stream", "1-1", "name", "value")
            ((stream, entries),) = await reader.read("XREAD", "STREAMS", "stream", "0")
            assert (stream, entries) == (b"stream", [(b"1-1", {b"name": b"value"})])


async def test_redis_may_be_reached_through_tls_and_only_where_its_certificate_is_known(
    redis: RedisServer, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    async with Wire(redis.port, tls=authority.context()) as wire:
        url = f"rediss://127.0.0.1:{wire.port}/0"
        async with RedisLink(f"{url}?ssl_ca_certs={authority.ca_path}") as link, link.reader() as reader:
            await link.run("XADD", "stream", "1-1", "name", "value")
            assert await reader.read("XREAD", "STREAMS", "stream", "0")
            wire.cut()
            with pytest.raises(RedisDown):
                await link.run("PING")
            wire.mend()
            await link.run("PING")
        async with RedisLink(url) as link:
            with pytest.raises(RedisDown, match="certificate verify failed"):
                await link.run("PING")
