"""The durable part of the threads' logs, and the approvals in them. Each function is the body of one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Select,
    any_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from gateway.store.records import Approval, Checkpoint, Segment, Thread
from gateway.store.rows import APPROVAL, SEGMENT, approval_of, insert, segment_of
from gateway.store.tables import approvals, segments, threads, turns

TRIMMED_TOGETHER = 200
"""Threads."""


def checkpoint(connection: Connection, batch: Sequence[Checkpoint], held: Thread | None = None) -> set[int]:
    """Add each segment behind its thread's head, or again in place of one that begins where it does.

    What belongs to a thread that is gone, or that has another epoch, is passed over; returns the keys of the latter.
    A few statements, however many threads. `held` is the only thread of the batch, as it stands now and locked.

    Raises:
        ValueError: a segment begins behind the place after the head; readers would take the gap for no events.
    """
    keys = {one.thread_key for one in batch}
    # Ordered, so that two processes never wait for each other.
    known: Sequence[Any] = [] if held is None else [held]
    if held is None:
        known = connection.execute(_heads(connection.dialect.name), {"keys": sorted(keys)}).all()
    heads = {row.key: row.head for row in known}
    epochs = {row.key: row.epoch for row in known}
    moved: dict[int, int] = {}
    fenced: set[int] = set()
    sessions, rows, changed, shown = [], [], [], []
    for one in batch:
        key, segment = one.thread_key, one.segment
        if key not in heads:
            continue
        if one.epoch != epochs[key]:
            fenced.add(key)
            continue
        if segment is not None:
            if segment.first > heads[key] + 1:
                raise ValueError("the segment leaves a gap in the log")
            heads[key] = moved[key] = max(heads[key], segment.last)
            rows.append({"thread_key": key} | msgspec.structs.asdict(segment))
        if one.session is not None:
            sessions.append({"of": key, "session": one.session})
        for approval in one.approvals:
            changed.append({"thread_key": key} | msgspec.structs.asdict(approval))
        shown += [{"of": key, "turn": turn_id} for turn_id in one.shown]
    if moved:
        connection.execute(MOVE_HEAD, [{"of": key, "head": head} for key, head in moved.items()])
    if sessions:
        connection.execute(SET_SESSION, sessions)
    if rows:
        connection.execute(_append(connection.dialect.name), rows)
    if changed:
        for fields in changed:
            del fields["thread_id"]
        connection.execute(_keep(connection.dialect.name), changed)
    if shown:
        connection.execute(SET_SHOWN, shown)
    return fenced


def append_at_rest(connection: Connection, one: Checkpoint) -> bool:
    """`checkpoint`, but only where nothing runs and nothing else was appended."""
    row = connection.execute(AT_REST, {"of": one.thread_key}).one_or_none()
    if row is None or row.epoch != one.epoch or (one.segment is not None and one.segment.first != row.head + 1):
        return False
    if connection.scalars(RUNS, {"of": one.thread_key}).one_or_none() is not None:
        return False
    checkpoint(connection, [one])
    return True


@cache
def _heads(dialect: str) -> Select[Any]:
    among: ColumnElement[bool] = threads.c.key.in_(bindparam("keys", expanding=True))
    if dialect == "postgresql":  # one statement, however many they are
        among = threads.c.key == any_(bindparam("keys", type_=ARRAY(BigInteger)))
    return select(threads.c.key, threads.c.head, threads.c.epoch).where(among).order_by(threads.c.key).with_for_update()


AT_REST = select(threads.c.head, threads.c.epoch).where(threads.c.key == bindparam("of")).with_for_update()
RUNS = select(turns.c.key).where(turns.c.thread_key == bindparam("of"), turns.c.status == "running")
_THREAD = update(threads).where(threads.c.key == bindparam("of"))
MOVE_HEAD = _THREAD.values(head=bindparam("head"))
SET_SESSION = _THREAD.values(session=bindparam("session"))
SET_SHOWN = (
    update(turns)
    .where(turns.c.turn_id == bindparam("turn"), turns.c.thread_key == bindparam("of"))
    .values(unshown=False)
)


@cache
def _append(dialect: str) -> Insert:
    row = insert(dialect, segments)
    return row.on_conflict_do_update(
        index_elements=[segments.c.thread_key, segments.c.first],
        set_={"last": row.excluded.last, "events": row.excluded.events},
        where=segments.c.last <= row.excluded.last,
    )


@cache
def _keep(dialect: str) -> Insert:
    row = insert(dialect, approvals)
    return row.on_conflict_do_update(
        index_elements=[approvals.c.approval_id],
        set_={column.name: row.excluded[column.name] for column in approvals.c if not column.primary_key},
        where=approvals.c.resolved_at.is_(None) & (approvals.c.thread_key == row.excluded.thread_key),
    )


def restart(connection: Connection, thread: Thread, epoch: int, segment: Segment | None) -> Thread:
    """Begin a new epoch: no segment is left, and the log goes on where `segment` begins. Returns the thread anew."""
    connection.execute(delete(segments).where(segments.c.thread_key == thread.key))
    new = msgspec.structs.replace(
        thread,
        epoch=max(thread.epoch + 1, epoch),
        head=thread.head if segment is None else segment.first - 1,
    )
    connection.execute(update(threads).where(threads.c.key == thread.key).values(epoch=new.epoch, head=new.head))
    return new


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


def trim(connection: Connection, finished_before: int, limit: int, behind: int) -> tuple[int, int | None]:
    """A turn's events lie between its `start` and the next one's, so all up to the least start of the turns that are
    to be kept may go.

    Of a few threads at a time: what is looked at is a hundred times what goes, and grows with all that is kept.
    """
    keys = select(threads.c.key).where(threads.c.key > behind).order_by(threads.c.key).limit(TRIMMED_TOGETHER)
    page = list(connection.scalars(keys))
    if not page:
        return 0, None
    kept = (
        select(turns.c.thread_key, func.min(turns.c.start).label("start"))
        .where(
            turns.c.thread_key.between(page[0], page[-1]),
            turns.c.start.is_not(None),
            or_(turns.c.finished_at.is_(None), turns.c.finished_at >= finished_before),
        )
        .group_by(turns.c.thread_key)
        .subquery()
    )
    old = (
        select(segments.c.thread_key, segments.c.first)
        .select_from(segments.outerjoin(kept, kept.c.thread_key == segments.c.thread_key))
        .where(
            segments.c.thread_key.between(page[0], page[-1]),
            or_(kept.c.start.is_(None), segments.c.last <= kept.c.start),
        )
        .order_by(segments.c.thread_key, segments.c.first)
        .limit(limit)
    )
    rows = tuple_(segments.c.thread_key, segments.c.first)
    forgotten = connection.execute(delete(segments).where(rows.in_(old))).rowcount
    if forgotten == limit:  # there may be more of them
        return forgotten, behind
    return forgotten, page[-1] if len(page) == TRIMMED_TOGETHER else None


def approval(connection: Connection, user_id: str, approval_id: str) -> Approval | None:
    statement = (
        select(*APPROVAL)
        .select_from(approvals.join(threads, threads.c.key == approvals.c.thread_key))
        .where(approvals.c.approval_id == approval_id, threads.c.user_id == user_id)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else approval_of(row)
