"""Devices that are registered for push. Each function is the body of one transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from gateway.store.rows import insert
from gateway.store.tables import devices
from notifications.records import Device

DEVICE = tuple(devices.c[name] for name in Device.__struct_fields__)


def device_of(row: Any) -> Device:
    return Device(**dict(zip(Device.__struct_fields__, row, strict=True)))


def put(connection: Connection, device: Device, token_id: str | None) -> None:
    """Register the device, or what is new about it. Whoever had its token before has it no longer."""
    mine = (devices.c.user_id == device.user_id) & (devices.c.device_id == device.device_id)
    same_token = (devices.c.platform == device.platform) & (devices.c.token == device.token)
    connection.execute(delete(devices).where(same_token & ~mine))
    fields = msgspec.structs.asdict(device) | {"token_id": token_id}
    row = insert(connection.dialect.name, devices).values(fields)
    connection.execute(row.on_conflict_do_update(index_elements=[devices.c.user_id, devices.c.device_id], set_=fields))


def of_user(connection: Connection, user_id: str) -> list[Device]:
    mine = select(*DEVICE).where(devices.c.user_id == user_id).order_by(devices.c.device_id)
    return [device_of(row) for row in connection.execute(mine)]


def get(connection: Connection, user_id: str, device_id: str) -> Device | None:
    mine = (devices.c.user_id == user_id) & (devices.c.device_id == device_id)
    row = connection.execute(select(*DEVICE).where(mine)).one_or_none()
    return None if row is None else device_of(row)


def remove(connection: Connection, user_id: str, device_id: str) -> bool:
    mine = (devices.c.user_id == user_id) & (devices.c.device_id == device_id)
    return connection.execute(delete(devices).where(mine)).rowcount > 0


def remove_token(connection: Connection, device: Device) -> bool:
    """Only if its token and the time of its registration are still these."""
    same = [devices.c[name] == getattr(device, name) for name in ("user_id", "device_id", "token", "registered_at")]
    return connection.execute(delete(devices).where(*same)).rowcount > 0
