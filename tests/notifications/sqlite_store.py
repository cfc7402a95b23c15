"""An outbox store in a SQLite file, small but durable: what a process killed at any point leaves behind is true.

Its calls take well under a millisecond, so it makes them in the loop.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
from msgspec.structs import replace

from notifications.records import Delivery, Device, Outcome, Platform, Policy, Push

_SCHEMA = """
CREATE TABLE IF NOT EXISTS device (
    user_id TEXT, device_id TEXT, record BLOB NOT NULL, PRIMARY KEY (user_id, device_id)
);
CREATE TABLE IF NOT EXISTS outbox (
    key INTEGER PRIMARY KEY, platform TEXT NOT NULL, user_id TEXT NOT NULL, device_id TEXT NOT NULL,
    record BLOB NOT NULL, due_at INTEGER NOT NULL, leased_until INTEGER NOT NULL DEFAULT 0,
    lease INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (platform, due_at);
CREATE TABLE IF NOT EXISTS outcome (delivery_id TEXT PRIMARY KEY, outcome TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
"""


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

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
        delivery = Delivery(
            key=0,
            lease=0,
            delivery_id=delivery_id,
            device=device,
            push=push,
            policy=policy,
            created_at=created_at,
            expires_at=expires_at,
            attempts=0,
        )
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT OR REPLACE INTO device VALUES (?, ?, ?)",
                (device.user_id, device.device_id, msgspec.json.encode(device)),
            )
            self._db.execute(
                "INSERT INTO outbox (platform, user_id, device_id, record, due_at) VALUES (?, ?, ?, ?, ?)",
                (device.platform, device.user_id, device.device_id, msgspec.json.encode(delivery), due_at),
            )

    def mark_seen(self, message_id: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (message_id,))

    def replace_device(self, device: Device) -> None:
        self._db.execute(
            "UPDATE device SET record = ? WHERE user_id = ? AND device_id = ?",
            (msgspec.json.encode(device), device.user_id, device.device_id),
        )

    def forget_device(self, device: Device) -> None:
        self._db.execute("DELETE FROM device WHERE user_id = ? AND device_id = ?", (device.user_id, device.device_id))

    @property
    def outcomes(self) -> dict[str, tuple[Outcome, str]]:
        return {row[0]: (row[1], row[2]) for row in self._db.execute("SELECT * FROM outcome")}

    async def lease(self, platform: Platform, *, now: int, until: int, limit: int) -> list[Delivery]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute(
                "UPDATE outbox SET leased_until = ?, lease = lease + 1 WHERE key IN (SELECT key FROM outbox"
                " WHERE platform = ? AND due_at <= ? AND leased_until <= ? ORDER BY due_at LIMIT ?)"
                " RETURNING key, record, lease, attempts, due_at, user_id, device_id",
                (until, platform, now, now, limit),
            ).fetchall()
            leased: list[Delivery] = []
            for key, record, lease, attempts, _, user_id, device_id in sorted(found, key=lambda row: int(row[4])):
                delivery = msgspec.json.decode(record, type=Delivery)
                device = self._db.execute(
                    "SELECT record FROM device WHERE user_id = ? AND device_id = ?", (user_id, device_id)
                ).fetchone()
                if device is None:
                    self._end(replace(delivery, key=key), "no_devices", "")
                    continue
                leased.append(
                    replace(
                        delivery,
                        key=key,
                        lease=lease,
                        attempts=attempts,
                        device=msgspec.json.decode(device[0], type=Device),
                    )
                )
        return leased

    async def next_due(self, platform: Platform) -> int | None:
        row = self._db.execute(
            "SELECT min(max(due_at, leased_until)) FROM outbox WHERE platform = ?", (platform,)
        ).fetchone()
        return None if row[0] is None else int(row[0])

    async def seen(self, delivery: Delivery) -> bool:
        found = self._db.execute("SELECT 1 FROM seen WHERE message_id = ?", (delivery.push.message_id,)).fetchone()
        return found is not None

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str, *, at: int) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._end(delivery, outcome, reason)

    async def reschedule(self, delivery: Delivery, *, due_at: int, attempts: int, reason: str) -> None:
        self._db.execute(
            "UPDATE outbox SET due_at = ?, attempts = ?, leased_until = 0 WHERE key = ? AND lease = ?",
            (due_at, attempts, delivery.key, delivery.lease),
        )

    async def remove_token(self, device: Device) -> bool:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute(
                "SELECT record FROM device WHERE user_id = ? AND device_id = ?", (device.user_id, device.device_id)
            ).fetchone()
            if row is None:
                return False
            known = msgspec.json.decode(row[0], type=Device)
            if (known.token, known.registered_at) != (device.token, device.registered_at):
                return False
            self.forget_device(device)
        return True

    def _end(self, delivery: Delivery, outcome: Outcome, reason: str) -> None:
        if self._db.execute("DELETE FROM outbox WHERE key = ?", (delivery.key,)).rowcount:
            self._db.execute("INSERT INTO outcome VALUES (?, ?, ?)", (delivery.delivery_id, outcome, reason))
