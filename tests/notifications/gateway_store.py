"""The gateway's own outbox, filled as the gateway fills it, under the names that the contract's tests give its rows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from msgspec.structs import replace

from gateway.store.records import NewTurn, PushPlan
from gateway.store.sql import SqlStore
from notifications.records import Delivery, Device, Outcome, Platform, Push


class GatewayStore:
    """An `OutboxStore`. The store makes its delivery ids itself; here each row is called by its turn instead."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._outbox = store.outbox
        self._names: list[str] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[GatewayStore]:
        async with SqlStore.open(url) as store:
            yield cls(store)

    async def add(
        self, device: Device, push: Push, *, delivery_id: str, created_at: int, due_at: int, expires_at: int
    ) -> None:
        """A turn asks for a push to this device alone, to be sent after a grace that ends at `due_at`."""
        self._names.append(delivery_id)
        new = NewTurn(
            user_id=device.user_id,
            agent="demo",
            thread_id=f"t-{delivery_id}",
            client_id=None,
            turn_id=delivery_id,
            message_id=f"m-{delivery_id}",
            answer_id=f"a-{delivery_id}",
            content="Hi",
            epoch=1,
            title="Hi",
            queue_limit=8,
            at=created_at,
        )
        await self._store.accept(new)
        others = [other for other in await self._store.devices(device.user_id) if other.device_id != device.device_id]
        for other in others:
            await self._store.remove_device(other.user_id, other.device_id)
        await self._store.put_device(device)
        plan = PushPlan(
            push=replace(push, turn_id=delivery_id),
            policy="unseen",
            grace_ms=due_at - created_at,
            expires_at=expires_at,
        )
        await self._store.enqueue_push(delivery_id, plan, created_at)
        for other in others:
            await self._store.put_device(other)

    async def replace_device(self, device: Device) -> None:
        await self._store.put_device(device)

    async def outcomes(self) -> dict[str, tuple[Outcome, str]]:
        return {
            name: (push.outcome, push.reason) for name in self._names for push in await self._store.push_outcomes(name)
        }

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        leased = await self._outbox.lease(platform, now=now, until=until, limit=limit)
        return [replace(row, delivery_id=row.push.turn_id) for row in leased]

    async def next_due(self, platform: Platform) -> int | None:
        return await self._outbox.next_due(platform)

    async def seen(self, delivery: Delivery) -> bool:
        return await self._outbox.seen(delivery)

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        await self._outbox.settle(delivery, outcome, reason, at=at)

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        await self._outbox.reschedule(delivery, due_at=due_at, attempts=attempts, reason=reason)

    async def remove_token(self, device: Device) -> bool:
        return await self._outbox.remove_token(device)
