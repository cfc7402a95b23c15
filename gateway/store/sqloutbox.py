"""The outbox in a SQL database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.store import devices, outbox
from gateway.store.writer import Writer
from notifications.records import Delivery, Device, Outcome, Platform


class SqlOutbox:
    """See `notifications.outbox.OutboxStore` for what each method promises."""

    def __init__(
        self,
        writer: Writer,
        read: Callable[..., Awaitable[Any]],
        on_outcome: Callable[[Platform | None, Outcome], None],
    ) -> None:
        self._write = writer.run
        self._read = read
        self._on_outcome = on_outcome

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        due = await self.next_due(platform)
        if due is None or due > now:  # most looks find nothing, and need not wait for the writer
            return []
        told: outbox.Told = []
        leased = await self._write(lambda connection: outbox.lease(connection, platform, now, until, limit, told))
        self._tell(told)
        return leased

    async def next_due(self, platform: Platform) -> int | None:
        found: int | None = await self._read(lambda connection: outbox.next_due(connection, platform))
        return found

    async def seen(self, delivery: Delivery) -> bool:
        return bool(await self._read(lambda connection: outbox.seen(connection, delivery)))

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        told: outbox.Told = []
        await self._write(lambda connection: outbox.settle(connection, delivery, outcome, reason, at, told))
        self._tell(told)

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        await self._write(lambda connection: outbox.reschedule(connection, delivery, due_at, attempts))

    async def remove_token(self, device: Device) -> bool:
        return await self._write(lambda connection: devices.remove_token(connection, device))

    def _tell(self, told: outbox.Told) -> None:
        for platform, outcome in told:
            self._on_outcome(platform, outcome)
