"""An outbox in a process of its own, for tests that kill it. Prints `ready`, then sends until it is killed.

`--delete-first` is the control: rows are deleted when they are leased, as an outbox without leases would do.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from notifications.apns import Apns, ApnsSettings
from notifications.http2 import Limits
from notifications.outbox import Outbox
from notifications.records import Delivery, Platform
from tests.notifications.sqlite_store import SqliteStore


class DeletingStore(SqliteStore):
    """Forgets a row before it is sent."""

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        rows = await super().lease(platform, now=now, until=until, limit=limit)
        for row in rows:
            await self.settle(row, "sent", "", at=now)
        return rows


async def work(options: argparse.Namespace, settings: ApnsSettings) -> None:
    store = (DeletingStore if options.delete_first else SqliteStore)(options.database)
    async with Apns(settings) as apns:
        outbox = Outbox(store, {"ios": apns}, lease_seconds=options.lease, poll_seconds=0.1)
        print("ready", flush=True)
        await outbox.run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--delete-first", action="store_true")
    options = parser.parse_args()
    settings = ApnsSettings(
        key_path=options.key,
        key_id="KEY1234567",
        team_id="TEAM123456",
        topic="org.example.app",
        endpoint=options.endpoint,
        ca_path=options.ca,
        limits=Limits(streams=10),  # few at once, so that a kill finds rows in every state
    )
    asyncio.run(work(options, settings))


if __name__ == "__main__":
    main()
