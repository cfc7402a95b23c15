"""The durable part of the threads' logs, and the approvals in them. Each function is the body of one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, case, delete, func, or_, select, tuple_, update

from gateway.store.records import Approval, Checkpoint, Segment, Thread
from gateway.store.rows import APPROVAL, SEGMENT, approval_of, insert, segment_of
from gateway.store.tables import approvals, segments, threads, turns


def checkpoint(connection: Connection, batch: Sequence[Checkpoint]) -> None:
    for one in sorted(batch, key=lambda one: one.thread_key):  # the same order everywhere: no deadlock
        append(connection, one)


def append(connection: Connection, one: Checkpoint) -> None:
    """Add a segment behind the thread's head, or again in place of one that begins where it does.

    A thread that is gone is passed over.

    Raises:
        ValueError: the segment begins behind the place after the head; readers would take the gap for no events.
    """
    values: dict[str, object] = {}
    segment = one.segment
    if segment is not None:
        values["head"] = case((threads.c.head < segment.last, segment.last), else_=threads.c.head)
    if one.session is not None:
        values["session"] = one.session
    if values:
        where = [threads.c.key == one.thread_key]
        if segment is not None:
            where.append(threads.c.head >= segment.first - 1)
        if connection.execute(update(threads).where(*where).values(**values)).rowcount == 0:
            if _exists(connection, one.thread_key):
                raise ValueError("the segment leaves a gap in the log")
            return
    elif not _exists(connection, one.thread_key):
        return
    if segment is not None:
        row = insert(connection, segments).values(
            thread_key=one.thread_key, first=segment.first, last=segment.last, events=segment.events
        )
        connection.execute(
            row.on_conflict_do_update(
                index_elements=[segments.c.thread_key, segments.c.first],
                set_={"last": row.excluded.last, "events": row.excluded.events},
                where=segments.c.last <= row.excluded.last,
            )
        )
    for approval in one.approvals:
        _keep(connection, one.thread_key, approval)


def _exists(connection: Connection, thread_key: int) -> bool:
    return connection.scalars(select(threads.c.key).where(threads.c.key == thread_key)).one_or_none() is not None


def _keep(connection: Connection, thread_key: int, approval: Approval) -> None:
    fields = {name: getattr(approval, name) for name in Approval.__struct_fields__ if name != "thread_id"}
    row = insert(connection, approvals).values(thread_key=thread_key, **fields)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=[approvals.c.approval_id],
            set_={name: row.excluded[name] for name in fields if name != "approval_id"},
            where=approvals.c.resolved_at.is_(None) & (approvals.c.thread_key == row.excluded.thread_key),
        )
    )


def restart(connection: Connection, thread: Thread, epoch: int, segment: Segment | None) -> None:
    """Begin a new epoch: no segment is left, and the log goes on where `segment` begins."""
    connection.execute(delete(segments).where(segments.c.thread_key == thread.key))
    values = {"epoch": max(thread.epoch + 1, epoch)}
    if segment is not None:
        values["head"] = segment.first - 1
    connection.execute(update(threads).where(threads.c.key == thread.key).values(**values))


def read(connection: Connection, thread_key: int, after: int, limit: int) -> list[Segment]:
    mine = segments.c.thread_key == thread_key
    # Segments do not overlap, so only the last one that begins at or before the place can reach over it.
    begin = select(func.max(segments.c.first)).where(mine, segments.c.first <= after + 1).scalar_subquery()
    found = (
        select(*SEGMENT)
        .where(mine, segments.c.first >= func.coalesce(begin, 0), segments.c.last > after)
        .order_by(segments.c.first)
        .limit(limit)
    )
    return [segment_of(row) for row in connection.execute(found)]


def trim(connection: Connection, finished_before: int, limit: int) -> int:
    """A turn's events lie between its `start` and the next one's, so all up to the least start of the turns that are
    to be kept may go."""
    kept = (
        select(turns.c.thread_key, func.min(turns.c.start).label("start"))
        .where(
            turns.c.start.is_not(None),
            or_(turns.c.finished_at.is_(None), turns.c.finished_at >= finished_before),
        )
        .group_by(turns.c.thread_key)
        .subquery()
    )
    old = (
        select(segments.c.thread_key, segments.c.first)
        .select_from(segments.outerjoin(kept, kept.c.thread_key == segments.c.thread_key))
        .where(or_(kept.c.start.is_(None), segments.c.last <= kept.c.start))
        .order_by(segments.c.thread_key, segments.c.first)
        .limit(limit)
    )
    rows = tuple_(segments.c.thread_key, segments.c.first)
    return connection.execute(delete(segments).where(rows.in_(old))).rowcount


def approval(connection: Connection, user_id: str, approval_id: str) -> Approval | None:
    statement = (
        select(*APPROVAL)
        .select_from(approvals.join(threads, threads.c.key == approvals.c.thread_key))
        .where(approvals.c.approval_id == approval_id, threads.c.user_id == user_id)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else approval_of(row)
