"""The outbox in a SQL database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.store import devices, outbox
from gateway.store.writer import Writer
from notifications.records import Delivery, Device, Outcome, Platform


class SqlOutbox:
    """See `notifications.outbox.OutboxStore` for what each method promises."""

    def __init__(self, writer: Writer, read: Callable[..., Awaitable[Any]]) -> None:
        self._write = writer.run
        self._read = read

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        due = await self.next_due(platform)
        if due is None or due > now:  # most looks find nothing, and need not wait for the writer
            return []
        return await self._write(lambda connection: outbox.lease(connection, platform, now, until, limit))

    async def next_due(self, platform: Platform) -> int | None:
        found: int | None = await self._read(lambda connection: outbox.next_due(connection, platform))
        return found

    async def seen(self, delivery: Delivery) -> bool:
        return bool(await self._read(lambda connection: outbox.seen(connection, delivery)))

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        await self._write(lambda connection: outbox.settle(connection, delivery, outcome, reason, at))

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        await self._write(lambda connection: outbox.reschedule(connection, delivery, due_at, attempts))

    async def remove_token(self, device: Device) -> bool:
        return await self._write(lambda connection: devices.remove_token(connection, device))
