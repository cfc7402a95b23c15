"""Who is there: told at once, forgotten within seconds, and of no weight while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from structlog.testing import capture_logs

from gateway.auth import StaticTokens
from gateway.connection import Connection
from gateway.endpoints import health
from gateway.eventlog.local import LocalEventLog
from gateway.hub import Hub
from gateway.nodes import presence as module
from gateway.nodes.link import RedisLink
from gateway.nodes.presence import KEY, Presence, Standing, connections
from tests.nodes.conftest import eventually
from tests.redis_server import RedisServer

ANOTHER = """
import asyncio, sys
from gateway.nodes.link import RedisLink
from gateway.nodes.presence import Presence, Standing

async def main():
    async with RedisLink(sys.argv[1]) as link:
        said = Standing(connections={"demo": 7}, running=1, lease_seconds=3, installation="i")
        await Presence(lambda: said, link).run()

asyncio.run(main())
"""


class Here:
    """A node in this process."""

    def __init__(self, link: RedisLink | None) -> None:
        self.link = link
        self.sockets: dict[str, int] = {}
        self.running = 0
        self.lease_seconds = 3.0
        self.installation = "i"
        self.presence = Presence(
            lambda: Standing(
                connections=self.sockets,
                running=self.running,
                lease_seconds=self.lease_seconds,
                installation=self.installation,
            ),
            link,
        )

    async def counts(self) -> dict[str, int]:
        return dict(connections(await self.presence.nodes()))

    async def counted(self, expected: dict[str, int], within: float = 10.0) -> float:
        """Wait until it counts so; returns how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(within):
            while await self.counts() != expected:  # noqa: ASYNC110 - of other nodes
                await asyncio.sleep(0.005)
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def present(redis: RedisServer) -> AsyncIterator[Here]:
    """A node that is there until the block ends."""
    async with RedisLink(redis.url) as link:
        here = Here(link)
        running = asyncio.create_task(here.presence.run())
        try:
            await eventually(lambda: link.up)
            yield here
        finally:
            running.cancel()
            ended = await asyncio.gather(running, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError), ended


async def test_every_node_counts_the_sockets_of_all_at_once_when_they_come_and_go(redis: RedisServer) -> None:
    async with present(redis) as one, present(redis) as two, present(redis) as three:
        one.sockets = {"demo": 1}
        assert await one.counts() == {"demo": 1}, "its own are those of this moment"
        one.presence.changed()
        for number in range(5):
            two.sockets = {"demo": 2 + number, "claude": 3}
            two.presence.changed()
            for node in (one, three):
                took = await node.counted({"demo": 3 + number, "claude": 3})
                assert took < 0.5, "long before it would have said so anyway"
        three.sockets = {"demo": 10}
        assert await one.counted({"demo": 17, "claude": 3}) < 2, "without `changed`: what is said every second"


async def test_a_node_that_stops_is_gone_at_once(redis: RedisServer) -> None:
    async with present(redis) as one:
        async with present(redis) as two:
            two.sockets = {"demo": 2}
            two.presence.changed()
            await one.counted({"demo": 2})
        assert await one.counts() == {}
        assert redis.command("HLEN", KEY) == 1


@pytest.mark.parametrize("forgets", [True, False])
async def test_the_sockets_of_a_node_that_died_are_counted_for_seconds_only(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    monkeypatch.setattr(module, "STALE_SECONDS", 1.2 if forgets else 60)
    async with present(redis) as one:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ANOTHER, redis.url)
        try:
            await one.counted({"demo": 7}, within=20)
        finally:
            process.kill()
            await process.wait()
        if forgets:
            assert await one.counted({}, within=3) > 0.3
            await eventually(lambda: redis.command("HLEN", KEY) == 1)
        else:
            await asyncio.sleep(1.4)
            assert await one.counts() == {"demo": 7}


async def test_while_redis_is_away_a_node_knows_itself_alone_and_afterwards_all_again(redis: RedisServer) -> None:
    async with present(redis) as one, present(redis) as two:
        one.sockets, two.sockets = {"demo": 1}, {"demo": 2}
        two.presence.changed()
        await one.counted({"demo": 3})
        await redis.kill()
        redis.forget()
        assert await one.counts() == {"demo": 1}
        await redis.restart()
        await one.counted({"demo": 3})


async def test_a_frozen_redis_is_waited_for_once(redis: RedisServer) -> None:
    async with present(redis) as one:
        one.sockets = {"demo": 1}
        with redis.frozen():
            began = time.monotonic()
            assert await one.counts() == {"demo": 1}
            assert time.monotonic() - began < 2.5
            began = time.monotonic()
            assert await one.counts() == {"demo": 1}
            assert time.monotonic() - began < 0.1
        await eventually(lambda: one.link is not None and one.link.up)


async def test_however_much_changes_it_is_said_twenty_times_a_second(redis: RedisServer) -> None:
    async with present(redis) as one:
        redis.command("CONFIG", "RESETSTAT")
        began = time.monotonic()
        while time.monotonic() < began + 0.5:
            one.presence.changed()
            await asyncio.sleep(0)
        stats = redis.command("INFO", "commandstats")
        took = time.monotonic() - began
    assert isinstance(stats, bytes)
    [line] = [line for line in stats.decode().splitlines() if line.startswith("cmdstat_eval:")]
    calls = int(line.partition("calls=")[2].partition(",")[0])
    assert 4 <= calls <= took * 20 + 2


async def test_what_is_not_of_a_node_is_passed_over(redis: RedisServer) -> None:
    async with present(redis) as one:
        redis.command("HSET", KEY, "n-odd", "nothing", "n-later", '{"at":99999999999999,"connections":{},"running":0}')
        assert await one.counts() == {}
        await eventually(lambda: redis.command("HLEN", KEY) == 1)


async def test_the_only_node_counts_itself() -> None:
    alone = Here(None)
    alone.sockets = {"demo": 3}
    assert await alone.counts() == {"demo": 3}
    alone.presence.changed()
    running = asyncio.create_task(alone.presence.run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_hub_counts_as_it_goes_and_tells_of_each_change() -> None:
    hub, changes, there = Hub(), list[None](), set[Connection]()
    hub.on_change = lambda: changes.append(None)
    random.seed(1)
    for number in range(500):
        if there and random.random() < 0.4:
            gone = there.pop()
            hub.remove(gone)
            hub.remove(gone)  # a second time changes nothing
        else:
            connection = Connection(
                connection_id=f"c{number}",
                user_id=random.choice("ab"),
                agent=random.choice("xyz"),
                device_id=None,
                logs=cast(LocalEventLog, None),
                frame_bytes=1024,
            )
            there.add(connection)
            hub.add(connection)
            hub.add(connection)
        assert hub.counts() == Counter(connection.agent for connection in there)
    assert len(changes) == 500


class Idle:
    """Whatever health asks of the parts that are not tested here."""

    draining = False
    stuck = 0
    count = 2
    problem: Exception | None = None

    async def ping(self) -> None:
        if self.problem is not None:
            raise self.problem

    def recent(self) -> list[Any]:
        return []


async def test_health_sums_the_nodes_and_is_degraded_while_redis_is_away_and_ready_stays_ready(
    redis: RedisServer,
) -> None:
    async with present(redis) as one, present(redis) as two:
        one.sockets, two.sockets, one.running = {"demo": 1}, {"demo": 2, "gone": 9}, 2
        two.presence.changed()
        await one.counted({"demo": 3, "gone": 9})
        assert one.link is not None
        app = Starlette(routes=[Route("/health", health.health), Route("/ready", health.ready)])
        app.state.services = SimpleNamespace(
            store=Idle(),
            loop_watch=Idle(),
            runner=Idle(),
            agents=[SimpleNamespace(name="demo", reason=None)],
            authenticator=StaticTokens({"owner": "o"}),
            presence=one.presence,
            link=one.link,
            settings=None,
        )
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://node") as http:
            owner = {"Authorization": "Bearer o"}
            shown = (await http.get("/health")).json()
            assert (shown["status"], shown["connections"]) == ("ok", {"demo": 3})
            assert "checks" not in shown
            checks = (await http.get("/health", headers=owner)).json()["checks"]
            assert checks["redis"] == "answers"
            assert checks["nodes"].startswith("2 (this one: 1 connections, 2 turns running; n-")
            await redis.kill()
            await eventually(lambda: one.link is not None and not one.link.up)
            answer = await http.get("/health", headers=owner)
            assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
            assert answer.json()["connections"] == {"demo": 1}
            assert answer.json()["checks"]["redis"].startswith("does not answer")
            assert (await http.get("/ready")).json() == {"status": "ok"}
            await redis.restart()
            await one.counted({"demo": 3, "gone": 9})
            assert (await http.get("/health")).json()["status"] == "ok"


async def test_nodes_that_judge_each_other_by_different_leases_say_so_once(redis: RedisServer) -> None:
    with capture_logs() as logs:

        def said() -> list[tuple[float, list[float]]]:
            return sorted((e["lease_seconds"], e["others"]) for e in logs if e["event"] == "leases_differ")

        async with present(redis) as one, present(redis) as other:
            other.lease_seconds = 30.0
            other.presence.changed()
            await eventually(lambda: len(said()) == 2)
            for sockets in range(1, 4):
                one.sockets, other.sockets = {"demo": sockets}, {"demo": sockets}
                one.presence.changed()
                other.presence.changed()
                await one.counted({"demo": 2 * sockets})
                await other.counted({"demo": 2 * sockets})
            assert said() == [(3.0, [30.0]), (30.0, [3.0])]


async def test_a_node_that_meets_one_of_another_installation_says_so_once(redis: RedisServer) -> None:
    with capture_logs() as logs:
        async with present(redis) as one, present(redis) as other:
            other.installation = "another"
            for sockets in range(1, 4):
                one.sockets, other.sockets = {"demo": sockets}, {"demo": sockets}
                one.presence.changed()
                other.presence.changed()
                await one.counted({"demo": 2 * sockets})
                await other.counted({"demo": 2 * sockets})
            await eventually(lambda: sum(entry["event"] == "redis_shared" for entry in logs) == 2)
