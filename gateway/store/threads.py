"""Threads and their messages. Each function is the body of one transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Select, and_, bindparam, case, delete, exists, func, select, update

from gateway.errors import Busy
from gateway.store import attachments, outbox
from gateway.store.records import Message, Thread, ThreadSummary
from gateway.store.rows import (
    IS_ANSWER,
    MESSAGE,
    MESSAGES_WITH_TURN,
    THREAD,
    insert,
    message_of,
    select_messages,
    thread_of,
)
from gateway.store.tables import POSITIONS, approvals, messages, segments, steers, threads, tombstones, turns


def _own(user_id: str, thread_id: str) -> Any:
    return and_(threads.c.user_id == user_id, threads.c.thread_id == thread_id)


LOCK = select(*THREAD).where(threads.c.key == bindparam("of")).with_for_update()


def lock(connection: Connection, thread_key: int) -> Thread | None:
    """The thread, which nobody else changes until the transaction ends."""
    row = connection.execute(LOCK, {"of": thread_key}).one_or_none()
    return None if row is None else thread_of(row)


_others = threads.alias()
_newest = (
    select(_others.c.updated_at + 1)
    .where(_others.c.user_id == threads.c.user_id, _others.c.key != threads.c.key)
    .order_by(_others.c.updated_at.desc())
    .limit(1)
    .scalar_subquery()
)
_at = bindparam("at", type_=BigInteger)
TOUCH = (
    update(threads)
    .where(threads.c.key == bindparam("of"))
    .values(updated_at=case((_newest > _at, _newest), else_=_at))
    .returning(threads.c.updated_at)
)


def touch(connection: Connection, thread: Thread, at: int) -> Thread:
    """Make it the user's newest: at `at`, or right after the newest other one that is committed."""
    updated_at = connection.scalars(TOUCH, {"of": thread.key, "at": at}).one()
    return msgspec.structs.replace(thread, updated_at=updated_at)


def thread(connection: Connection, user_id: str, thread_id: str) -> Thread | None:
    row = connection.execute(select(*THREAD).where(_own(user_id, thread_id))).one_or_none()
    return None if row is None else thread_of(row)


def thread_by_key(connection: Connection, thread_key: int) -> Thread | None:
    row = connection.execute(select(*THREAD).where(threads.c.key == thread_key)).one_or_none()
    return None if row is None else thread_of(row)


def _select_summaries() -> Select[Any]:
    """Thread, running, unread, read_message_id, and the last message's columns (null if it has none to show)."""
    shown = turns.c.status != "queued"
    last = (
        select(messages.c.position)
        .select_from(MESSAGES_WITH_TURN)
        .where(messages.c.thread_key == threads.c.key, shown)
        .order_by(messages.c.position.desc())
        .limit(1)
        .correlate(threads)
        .scalar_subquery()
    )
    runs = exists().where(turns.c.thread_key == threads.c.key, turns.c.status == "running").correlate(threads)
    behind = and_(messages.c.thread_key == threads.c.key, messages.c.position > threads.c.read_position, IS_ANSWER)
    unread = select(func.count()).select_from(messages).where(behind).correlate(threads).scalar_subquery()
    marked = and_(messages.c.thread_key == threads.c.key, messages.c.position == threads.c.read_position)
    mark = select(messages.c.message_id).where(marked).correlate(threads).scalar_subquery()
    return select(*THREAD, runs, unread, mark, *MESSAGE).select_from(
        threads.outerjoin(
            messages, and_(messages.c.thread_key == threads.c.key, messages.c.position == last)
        ).outerjoin(
            turns, and_(turns.c.thread_key == messages.c.thread_key, turns.c.number == messages.c.position // POSITIONS)
        )
    )


SUMMARIES = _select_summaries()


def _summary_of(row: Any) -> ThreadSummary:
    cut = len(THREAD)
    runs, unread, mark, *message = row[cut:]
    return ThreadSummary(
        thread=thread_of(row[:cut]),
        last_message=None if message[0] is None else message_of(message),
        running=bool(runs),
        unread=unread,
        read_message_id=mark,
    )


def summaries(
    connection: Connection, user_id: str, *, agent: str | None, before: int | None, limit: int
) -> list[ThreadSummary]:
    mine = SUMMARIES.where(threads.c.user_id == user_id)
    if agent is not None:
        mine = mine.where(threads.c.agent == agent)
    mine = mine.order_by(threads.c.updated_at.desc(), threads.c.key.desc())
    page = mine if before is None else mine.where(threads.c.updated_at < before)
    found = [_summary_of(row) for row in connection.execute(page.limit(limit))]
    if len(found) == limit and found:
        last = found[-1].thread
        tied = mine.where(threads.c.updated_at == last.updated_at, threads.c.key < last.key)
        found += [_summary_of(row) for row in connection.execute(tied)]
    return found


def summary(connection: Connection, user_id: str, thread_id: str) -> ThreadSummary | None:
    row = connection.execute(SUMMARIES.where(_own(user_id, thread_id))).one_or_none()
    return None if row is None else _summary_of(row)


def rename(connection: Connection, user_id: str, thread_id: str, title: str) -> Thread | None:
    statement = update(threads).where(_own(user_id, thread_id)).values(title=title).returning(*THREAD)
    row = connection.execute(statement).one_or_none()
    return None if row is None else thread_of(row)


def remove(connection: Connection, user_id: str, thread_id: str) -> bool:
    found = connection.execute(select(*THREAD).where(_own(user_id, thread_id)).with_for_update()).one_or_none()
    if found is None:
        return False
    gone = thread_of(found)
    still_open = exists().where(turns.c.thread_key == gone.key, turns.c.finished_at.is_(None))
    if connection.scalars(select(still_open)).one():
        raise Busy("a turn of this thread has not ended: try again")
    row = insert(connection.dialect.name, tombstones).values(user_id=user_id, thread_id=thread_id, epoch=gone.epoch)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=[tombstones.c.user_id, tombstones.c.thread_id],
            set_={
                "epoch": case((tombstones.c.epoch < row.excluded.epoch, row.excluded.epoch), else_=tombstones.c.epoch)
            },
        )
    )
    outbox.forget_thread(connection, gone.key)
    attachments.forget_thread(connection, gone.key)
    for table in (approvals, segments, steers, messages, turns):
        connection.execute(delete(table).where(table.c.thread_key == gone.key))
    connection.execute(delete(threads).where(threads.c.key == gone.key))
    return True


def history(
    connection: Connection, thread_key: int, *, before: int | None, after: int | None, limit: int
) -> list[Message]:
    statement = select_messages().where(messages.c.thread_key == thread_key).limit(limit)
    if before is not None:
        statement = statement.where(messages.c.position < before)
    if after is not None:
        statement = statement.where(messages.c.position > after).order_by(messages.c.position)
        return [message_of(row) for row in connection.execute(statement)]
    found = connection.execute(statement.order_by(messages.c.position.desc())).all()
    return [message_of(row) for row in reversed(found)]


def message(connection: Connection, thread_key: int, message_id: str) -> Message | None:
    mine = select_messages().where(messages.c.thread_key == thread_key, messages.c.message_id == message_id)
    row = connection.execute(mine).one_or_none()
    return None if row is None else message_of(row)


def mark_read(
    connection: Connection, user_id: str, thread_id: str, message_id: str, device_id: str | None, at: int
) -> bool | None:
    mine = thread(connection, user_id, thread_id)
    seen = None if mine is None else message(connection, mine.key, message_id)
    if mine is None or seen is None:
        return None
    own = threads.c.key == mine.key
    before = connection.scalars(select(threads.c.read_position).where(own).with_for_update()).one_or_none()
    if before is None:
        return None
    if before >= seen.position:
        return False
    connection.execute(update(threads).where(own).values(read_position=seen.position))
    outbox.withdraw(connection, mine, before, seen.position, device_id, at)
    return True
