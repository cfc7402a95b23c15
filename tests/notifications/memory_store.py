"""An outbox store in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from msgspec.structs import replace

from notifications.records import Delivery, Device, Outcome, Platform, Policy, Push


@dataclass
class Row:
    delivery: Delivery
    due_at: int
    leased_until: int = 0


@dataclass
class MemoryStore:
    rows: dict[int, Row] = field(default_factory=dict)
    devices: dict[tuple[str, str], Device] = field(default_factory=dict)
    outcomes: dict[str, tuple[Outcome, str]] = field(default_factory=dict)
    """By delivery id."""
    seen_messages: set[str] = field(default_factory=set)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    """Why each delivery was put off."""
    leases: int = 0
    failing: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(
        self,
        device: Device,
        push: Push,
        *,
        delivery_id: str,
        policy: Policy = "always",
        created_at: int,
        due_at: int,
        expires_at: int,
    ) -> None:
        key = len(self.rows) + len(self.outcomes) + 1
        self.devices[device.user_id, device.device_id] = device
        self.rows[key] = Row(
            Delivery(
                key=key,
                lease=0,
                delivery_id=delivery_id,
                device=device,
                push=push,
                policy=policy,
                created_at=created_at,
                expires_at=expires_at,
                attempts=0,
            ),
            due_at,
        )

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        self._check()
        leased: list[Delivery] = []
        for row in sorted(self.rows.values(), key=lambda row: row.due_at):
            if len(leased) == limit:
                break
            if row.delivery.device.platform != platform or row.due_at > now or row.leased_until > now:
                continue
            device = self.devices.get((row.delivery.device.user_id, row.delivery.device.device_id))
            if device is None:
                del self.rows[row.delivery.key]
                self._end(row.delivery, "no_devices", "")
                continue
            self.leases += 1
            row.delivery = replace(row.delivery, lease=self.leases, device=device)
            row.leased_until = until
            leased.append(row.delivery)
        return leased

    async def next_due(self, platform: Platform) -> int | None:
        self._check()
        return min(
            (
                max(row.due_at, row.leased_until)
                for row in self.rows.values()
                if row.delivery.device.platform == platform
            ),
            default=None,
        )

    async def seen(self, delivery: Delivery) -> bool:
        self._check()
        return delivery.push.message_id in self.seen_messages

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        self._check()
        if self.rows.pop(delivery.key, None) is not None:
            self._end(delivery, outcome, reason)

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        self._check()
        row = self.rows.get(delivery.key)
        if row is not None and row.delivery.lease == delivery.lease:
            row.delivery = replace(row.delivery, attempts=attempts)
            row.due_at, row.leased_until = due_at, 0
            self.reasons.setdefault(delivery.delivery_id, []).append(reason)
            self.changed.set()

    async def remove_token(self, device: Device) -> bool:
        self._check()
        known = self.devices.get((device.user_id, device.device_id))
        if known is None or (known.token, known.registered_at) != (device.token, device.registered_at):
            return False
        del self.devices[device.user_id, device.device_id]
        return True

    async def until_settled(self, count: int, within: float = 15.0) -> None:
        async with asyncio.timeout(within):
            while len(self.outcomes) < count:
                self.changed.clear()
                await self.changed.wait()

    def _end(self, delivery: Delivery, outcome: Outcome, reason: str) -> None:
        self.outcomes[delivery.delivery_id] = (outcome, reason)
        self.changed.set()

    def _check(self) -> None:
        if self.failing:
            raise ConnectionError("the database is away")
