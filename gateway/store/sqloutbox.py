"""The outbox in a SQL database."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from gateway.store import devices, outbox
from gateway.store.database import Database
from notifications.records import Delivery, Device, Outcome, Platform

T = TypeVar("T")


def keep_told(work: Callable[[Connection, outbox.Told], T]) -> Callable[[Connection], tuple[T, outbox.Told]]:
    """`work` as a transaction that returns its result and the outcomes that it kept: those of the try that counts."""

    def once(connection: Connection) -> tuple[T, outbox.Told]:
        told: outbox.Told = []
        return work(connection, told), told

    return once


class SqlOutbox:
    """See `notifications.outbox.OutboxStore` for what each method promises."""

    def __init__(self, database: Database, on_outcome: Callable[[Platform | None, Outcome], None]) -> None:
        self._read, self._write = database.read, database.write
        self._on_outcome = on_outcome

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        due = await self.next_due(platform)
        if due is None or due > now:  # most looks find nothing, and need not wait for the writer
            return []
        leased, told = await self._write(
            keep_told(lambda connection, told: outbox.lease(connection, platform, now, until, limit, told))
        )
        self._tell(told)
        return leased

    async def next_due(self, platform: Platform) -> int | None:
        return await self._read(lambda connection: outbox.next_due(connection, platform))

    async def seen(self, delivery: Delivery) -> bool:
        return await self._read(lambda connection: outbox.seen(connection, delivery))

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        _, told = await self._write(
            keep_told(lambda connection, told: outbox.settle(connection, delivery, outcome, reason, at, told))
        )
        self._tell(told)

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        await self._write(lambda connection: outbox.reschedule(connection, delivery, due_at, attempts))

    async def remove_token(self, device: Device) -> bool:
        return await self._write(lambda connection: devices.remove_token(connection, device))

    def _tell(self, told: outbox.Told) -> None:
        for platform, outcome in told:
            self._on_outcome(platform, outcome)
