"""The bytes of attachments, in pieces. Each function is the body, or a part, of one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, delete, exists, select, update

from gateway.store.rows import queue_up
from gateway.store.tables import attachment_bytes, attachments

_NAME: Any = attachment_bytes.c["name"]
_WANTED = exists().where(attachments.c.sha256 == _NAME)


def add(connection: Connection, upload: str, number: int, content: bytes, at: int) -> None:
    row = {"name": upload, "number": number, "created_at": at, "bytes": content}
    connection.execute(attachment_bytes.insert(), row)


def get(connection: Connection, sha256: str, number: int) -> bytes | None:
    piece = select(attachment_bytes.c.bytes).where(sha256 == _NAME, attachment_bytes.c.number == number)
    found = connection.scalars(piece).one_or_none()
    return None if found is None else bytes(found)


def settle(connection: Connection, upload: str, sha256: str) -> None:
    """The upload's bytes have this hash, and an attachment. Where it has them already, the upload's go."""
    queue_up(connection, "bytes", sha256)
    if connection.scalars(select(attachment_bytes.c.number).where(sha256 == _NAME).limit(1)).one_or_none() is None:
        connection.execute(update(attachment_bytes).where(upload == _NAME).values(name=sha256))
    else:
        forget(connection, upload)


def let_go(connection: Connection, hashes: Iterable[str]) -> None:
    """Remove those of these that no attachment has any more, now that some have gone."""
    for sha256 in sorted(set(hashes)):
        queue_up(connection, "bytes", sha256)
    connection.execute(delete(attachment_bytes).where(_NAME.in_(set(hashes)), ~_WANTED))


def forget(connection: Connection, upload: str) -> None:
    connection.execute(delete(attachment_bytes).where(upload == _NAME))


def forget_uploads(connection: Connection, before: int) -> None:
    """What was left unfinished. Bytes with an attachment stay, however old they are."""
    connection.execute(
        delete(attachment_bytes).where(_NAME.startswith("upload-"), attachment_bytes.c.created_at < before)
    )
