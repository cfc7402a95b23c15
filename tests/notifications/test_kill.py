"""What `kill -9` between sending and answer may cost: a repeat under the same ids, never a push."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.apns import ApnsFake
from tests.fakes.push_tls import Authority
from tests.notifications.conftest import MakeSettings
from tests.notifications.pushes import device, push
from tests.notifications.sqlite_store import SqliteStore

ROOT = Path(__file__).parents[2]


class Killer:
    """Starts workers on one database and kills them at random points of their work."""

    def __init__(self, fake: ApnsFake, authority: Authority, key_path: Path, database: Path, *, control: bool) -> None:
        self.fake = fake
        self.arguments = [
            sys.executable,
            "-m",
            "tests.notifications.outbox_worker",
            f"--database={database}",
            f"--endpoint={fake.url}",
            f"--ca={authority.ca_path}",
            f"--key={key_path}",
            *(["--delete-first"] if control else []),
        ]
        self.rng = random.Random(20261120)

    async def start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*self.arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        return process

    async def kill_amid_work(self) -> None:
        """Lets a worker run up to a random point, then kills it with SIGKILL."""
        connections = self.fake.connections
        process = await self.start()
        try:
            # Half of them while it connects, with rows leased; half between some request and its answer.
            if self.rng.random() < 0.5:
                target = self.fake.requests + self.rng.randint(1, 40)
                with suppress(TimeoutError):
                    await self.fake.until(lambda: self.fake.requests >= target, within=3.0)
                await asyncio.sleep(self.rng.random() * 0.03)
            else:
                async with asyncio.timeout(10):
                    while self.fake.connections == connections:  # noqa: ASYNC110  the fake counts, and tells nobody
                        await asyncio.sleep(0.001)
        finally:
            process.kill()
            await process.wait()

    async def finish(self, store: SqliteStore, count: int) -> None:
        """Lets a last worker run until every row has an outcome."""
        process = await self.start()
        try:
            async with asyncio.timeout(30):
                while len(store.outcomes) < count:  # noqa: ASYNC110  another process writes the outcomes
                    await asyncio.sleep(0.05)
        finally:
            process.kill()
            await process.wait()


async def run(killer: Killer, store: SqliteStore, kills: int) -> set[str]:
    """Kills `kills` workers while rows keep coming; returns the ids of all rows."""
    ids: set[str] = set()
    for _ in range(kills):
        for _ in range(40):
            delivery_id = str(uuid.uuid4())
            at = int(time.time() * 1000)
            store.add(
                device(device_id=delivery_id),
                push("x" * 3_000, turn_id=delivery_id),
                delivery_id=delivery_id,
                created_at=at,
                due_at=at,
                expires_at=at + 3_600_000,
            )
            ids.add(delivery_id)
        await killer.kill_amid_work()
    await killer.finish(store, len(ids))
    return ids


def collapse_ids(fake: ApnsFake) -> Counter[str]:
    return Counter({shown.apns_id: 0 for shown in fake.shown}) + Counter(
        apns_id for apns_id, _ in {(shown.apns_id, shown.headers["apns-collapse-id"]) for shown in fake.shown}
    )


async def check_kills(kills: int, fake: ApnsFake, authority: Authority, settings: MakeSettings, database: Path) -> None:
    fake.latency = 0.03
    store = SqliteStore(database)
    async with fake.serving(authority):
        killer = Killer(fake, authority, settings().key_path, database, control=False)
        ids = await run(killer, store, kills)
    assert set(fake.times) == ids
    assert set(store.outcomes.values()) == {("sent", "")}
    assert len(store.outcomes) == len(ids)
    assert set(collapse_ids(fake).values()) == {1}
    repeated = sum(count - 1 for count in fake.times.values())
    assert repeated <= kills * 10  # as many as were under way at each kill
    store.close()


async def test_no_push_is_lost_by_twenty_kills(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings, tmp_path: Path
) -> None:
    await check_kills(20, apns_fake, authority, apns_settings, tmp_path / "outbox.db")


@pytest.mark.soak
async def test_no_push_is_lost_by_a_hundred_kills(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings, tmp_path: Path
) -> None:
    await check_kills(100, apns_fake, authority, apns_settings, tmp_path / "outbox.db")


async def test_without_the_lease_the_same_kills_lose_pushes(
    apns_fake: ApnsFake, authority: Authority, apns_settings: MakeSettings, tmp_path: Path
) -> None:
    """The control: it shows that the kills above do hit pushes under way."""
    apns_fake.latency = 0.03
    store = SqliteStore(tmp_path / "outbox.db")
    async with apns_fake.serving(authority):
        killer = Killer(apns_fake, authority, apns_settings().key_path, tmp_path / "outbox.db", control=True)
        ids = await run(killer, store, kills=6)
    assert len(ids - set(apns_fake.times)) > 0
    assert len(store.outcomes) == len(ids)
    store.close()
