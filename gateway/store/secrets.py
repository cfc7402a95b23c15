"""Keys that the gateway makes for itself. The body of one transaction."""

from __future__ import annotations

import os

from sqlalchemy import Connection, select

from gateway.store.rows import insert
from gateway.store.tables import secrets

BYTES = 32


def secret(connection: Connection, name: str) -> bytes:
    made = insert(connection.dialect.name, secrets).values(name=name, value=os.urandom(BYTES))
    connection.execute(made.on_conflict_do_nothing(index_elements=[secrets.c.name]))
    return bytes(connection.scalars(select(secrets.c.value).where(secrets.c.name == name)).one())
