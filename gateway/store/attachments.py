"""Attachments and where they are used. Each function is the body, or a part, of one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, exists, func, select

from gateway.errors import AttachmentsFull, NotFound
from gateway.store import attachmentbytes
from gateway.store.records import Attachment
from gateway.store.rows import insert, queue_up
from gateway.store.tables import attachment_uses, attachments

ATTACHMENT = tuple(attachments.c[name] for name in Attachment.__struct_fields__)
_UNUSED = ~exists().where(attachment_uses.c.attachment_id == attachments.c.attachment_id)


def attachment_of(row: Any) -> Attachment:
    return Attachment(**dict(zip(Attachment.__struct_fields__, row, strict=True)))


def put(connection: Connection, new: Attachment, room: int, upload: str | None) -> None:
    """Raises: AttachmentsFull: the user's attachments would have more than `room` bytes together."""
    queue_up(connection, "attachments", new.user_id)
    total = select(func.coalesce(func.sum(attachments.c.size), 0)).where(attachments.c.user_id == new.user_id)
    if connection.scalars(total).one() + new.size > room:
        raise AttachmentsFull
    if upload is not None:
        attachmentbytes.settle(connection, upload, new.sha256)
    connection.execute(attachments.insert(), msgspec.structs.asdict(new))


def get(connection: Connection, user_id: str, ids: Sequence[str]) -> list[Attachment]:
    """Those of the user, in no order."""
    mine = select(*ATTACHMENT).where(attachments.c.user_id == user_id, attachments.c.attachment_id.in_(ids))
    return [attachment_of(row) for row in connection.execute(mine)]


def use(connection: Connection, user_id: str, thread_key: int, shown: Sequence[Mapping[str, Any]]) -> None:
    """The thread has a message with these attachments.

    Raises:
        NotFound: the user has them no more; the transaction is to be undone.
    """
    if not shown:
        return
    ids = {str(one["id"]) for one in shown}
    # The rows are locked where there are row locks: who forgets them waits, or they are gone already.
    mine = attachments.c.user_id == user_id, attachments.c.attachment_id.in_(ids)
    if set(_locked(connection, *mine)) != ids:
        raise NotFound("there is no such attachment", field="attachments")
    row = insert(connection.dialect.name, attachment_uses).on_conflict_do_nothing()
    connection.execute(row, [{"thread_key": thread_key, "attachment_id": one} for one in sorted(ids)])


def _locked(connection: Connection, *where: Any, pass_over: bool = False) -> list[str]:
    """The ids of these attachments, which nobody else uses or forgets until the transaction ends.

    What is then asked about them must be asked in a further statement: one sees what was there when it began to wait.
    """
    ids = select(attachments.c.attachment_id).where(*where).order_by(attachments.c.attachment_id)
    return list(connection.scalars(ids.with_for_update(skip_locked=pass_over)))


def forget_thread(connection: Connection, thread_key: int) -> None:
    """Delete what only this thread used."""
    used = select(attachment_uses.c.attachment_id).where(attachment_uses.c.thread_key == thread_key)
    ids = _locked(connection, attachments.c.attachment_id.in_(used))
    connection.execute(delete(attachment_uses).where(attachment_uses.c.thread_key == thread_key))
    _delete_unused(connection, ids)


def forget_unused(connection: Connection, before: int) -> int:
    """Delete what no message names and what was handed in before that time. Returns how many."""
    ids = _locked(connection, attachments.c.created_at < before, _UNUSED, pass_over=True)
    return _delete_unused(connection, ids)


def _delete_unused(connection: Connection, ids: Sequence[str]) -> int:
    """Those of these that are in no use, and the bytes that only they had. Returns how many."""
    unused = delete(attachments).where(attachments.c.attachment_id.in_(ids), _UNUSED)
    hashes = list(connection.scalars(unused.returning(attachments.c.sha256)))
    if hashes:
        attachmentbytes.let_go(connection, hashes)
    return len(hashes)


def known_hashes(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Those of the hashes that some attachment has."""
    return set(connection.scalars(select(attachments.c.sha256).where(attachments.c.sha256.in_(hashes))))


def hashes_of_thread(connection: Connection, thread_key: int) -> set[str]:
    """The hashes of what the thread uses."""
    of_thread = select(attachments.c.sha256).join(attachment_uses).where(attachment_uses.c.thread_key == thread_key)
    return set(connection.scalars(of_thread))
