"""Codes for pairing and the tokens of paired devices. Each function is the body of one transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select

from gateway.errors import LimitExceeded
from gateway.store.records import DeviceToken, DeviceTokens, NewDeviceToken, PairCode
from gateway.store.rows import queue_up
from gateway.store.tables import device_tokens, devices, pair_codes

CODES_PER_USER = 16
"""Codes of one user that are good at the same time; the oldest gives way."""
DEVICES_PER_USER = 100
TOKEN = tuple(device_tokens.c[name] for name in DeviceToken.__struct_fields__)


def add_code(connection: Connection, code: PairCode) -> None:
    connection.execute(delete(pair_codes).where(pair_codes.c.expires_at <= code.created_at))
    mine = pair_codes.c.user_id == code.user_id
    newest = select(pair_codes.c.digest).where(mine).order_by(pair_codes.c.created_at.desc()).limit(CODES_PER_USER - 1)
    connection.execute(delete(pair_codes).where(mine, pair_codes.c.digest.not_in(list(connection.scalars(newest)))))
    connection.execute(pair_codes.insert().values(msgspec.structs.asdict(code)))


def is_good(connection: Connection, digest: bytes, at: int) -> bool:
    """Whether the code could be used now."""
    return connection.scalars(select(pair_codes.c.user_id).where(*_good(digest, at))).one_or_none() is not None


def pair(connection: Connection, digest: bytes, new: NewDeviceToken) -> DeviceToken | None:
    """Use the code up, and add the token for its user."""
    used = delete(pair_codes).where(*_good(digest, new.created_at)).returning(pair_codes.c.user_id)
    user_id = connection.scalars(used).one_or_none()
    if user_id is None:
        return None
    queue_up(connection, "tokens")  # so that keys are committed in their order, and `mark` misses none
    count = select(func.count()).select_from(device_tokens).where(device_tokens.c.user_id == user_id)
    if connection.scalars(count).one() >= DEVICES_PER_USER:
        raise LimitExceeded(f"a user has at most {DEVICES_PER_USER} paired devices: revoke one first")
    row = msgspec.structs.asdict(new) | {"user_id": user_id}
    connection.execute(device_tokens.insert().values(row))
    return DeviceToken(**row)


def _good(digest: bytes, at: int) -> tuple[Any, ...]:
    return pair_codes.c.digest == digest, pair_codes.c.expires_at > at


def tokens(connection: Connection, unless: tuple[int, int] | None) -> DeviceTokens | None:
    newest = select(func.count(), func.coalesce(func.max(device_tokens.c.key), 0)).select_from(device_tokens)
    count, highest = connection.execute(newest).one()
    if (count, highest) == unless:
        return None
    return DeviceTokens(mark=(count, highest), tokens=_listed(connection))


def of_user(connection: Connection, user_id: str) -> list[DeviceToken]:
    return _listed(connection, device_tokens.c.user_id == user_id)


def _listed(connection: Connection, *where: Any) -> list[DeviceToken]:
    rows = connection.execute(select(*TOKEN).where(*where).order_by(device_tokens.c.key))
    found = (dict(zip(DeviceToken.__struct_fields__, row, strict=True)) for row in rows)
    return [DeviceToken(**fields | {"digest": bytes(fields["digest"])}) for fields in found]


def remove(connection: Connection, user_id: str, token_id: str) -> bool:
    mine = (device_tokens.c.user_id == user_id) & (device_tokens.c.token_id == token_id)
    if connection.execute(delete(device_tokens).where(mine)).rowcount == 0:
        return False
    connection.execute(delete(devices).where(devices.c.user_id == user_id, devices.c.token_id == token_id))
    return True
