"""A node that is started with wrong settings says so in one line."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from gateway.nodes.installation import expect_own, installation_of
from gateway.nodes.link import RedisLink
from gateway.nodes.presence import STALE_SECONDS, Standing, standings
from gateway.services import open_services
from gateway.settings import Settings, SettingsError
from gateway.store.migrate import POSTGRES_LOCK
from gateway.store.sql import SqlStore
from tests.nodes.test_presence import present
from tests.redis_server import RedisServer

POSTGRES = "postgresql://user:secret@127.0.0.1:1/none"


def of(folder: Path, database_url: str, redis_url: str | None) -> Settings:
    given = {"database_url": database_url, "redis_url": redis_url, "state_dir": folder, "host": "127.0.0.1"}
    return Settings.model_validate(given)


async def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as raised:
        async with open_services(settings):
            pass
    said = str(raised.value)
    assert "\n" not in said
    assert "secret" not in said
    return said


async def test_a_number_of_a_database_that_redis_does_not_have_stops_the_start(
    redis: RedisServer, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{redis.port}/99"
    assert (await refusal(of(tmp_path, POSTGRES, url))).startswith("redis_url: Redis refuses the connection: ")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret@127.0.0.1:port/none",
        "postgresql://user:secret@127.0.0.1:1/none?sslmode=perhaps",
        "sqlite://",
    ],
)
async def test_a_database_url_that_cannot_be_read_stops_the_start(tmp_path: Path, url: str) -> None:
    assert (await refusal(of(tmp_path, url, None))).startswith("database_url: the database URL ")


async def test_two_installations_do_not_share_a_redis(redis: RedisServer, tmp_path: Path) -> None:
    async with (
        SqlStore.open(f"sqlite:///{tmp_path}/one.db") as store,
        SqlStore.open(f"sqlite:///{tmp_path}/two.db") as another,
        RedisLink(redis.url) as link,
    ):
        own, other = await installation_of(store), await installation_of(another)
        async with present(redis) as here:
            here.installation = own
            here.presence.changed()
            await eventually_said(link, own)
            async with asyncio.timeout(2):
                await expect_own(link, own)  # its other nodes
            with pytest.raises(SettingsError, match="nodes with another database use this Redis"):
                await expect_own(link, other)
        async with asyncio.timeout(2):
            await expect_own(link, other)  # the others have left
        await redis.kill()
        await expect_own(link, own)  # nobody knows: it starts all the same


async def test_a_redis_may_be_taken_over_from_an_installation_whose_nodes_were_killed(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with RedisLink(redis.url) as link:
        dead = Standing(connections={}, running=0, lease_seconds=3, installation="another")
        await standings(link, "n-dead", msgspec.json.encode(dead))
        async with asyncio.timeout(STALE_SECONDS + 2):
            await expect_own(link, "own")


async def eventually_said(link: RedisLink, installation: str) -> None:
    async with asyncio.timeout(10):
        while {one.installation for one in (await standings(link)).values()} != {installation}:  # noqa: ASYNC110 - of another node
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_waits_for_anothers_migration_can_be_stopped(
    redis: RedisServer, postgres_url: str, tmp_path: Path, asked: signal.Signals
) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    environment = {
        **os.environ,
        "AGENTLINE_DATABASE_URL": postgres_url,
        "AGENTLINE_REDIS_URL": redis.url,
        "AGENTLINE_STATE_DIR": str(tmp_path),
    }
    async with SqlStore.open(postgres_url) as store:
        held, release = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def hold() -> None:
            async with store.database._engine.connect() as connection:  # type: ignore[attr-defined]  # a Postgres
                await connection.execute(text(f"SELECT pg_advisory_lock({POSTGRES_LOCK})"))
                held.set()
                await release.wait()
                await connection.execute(text("SELECT pg_advisory_unlock_all()"))

        holding = loop.create_task(hold())
        await held.wait()
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "worker", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60):
                while not await store.database.read(lambda connection: connection.execute(waiting).scalar()):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
            worker.send_signal(asked)
            async with asyncio.timeout(10):
                assert await worker.wait() == -asked
        finally:
            release.set()
            await holding
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
