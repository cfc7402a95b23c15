"""How rows become records, and the statements that read them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Integer, Select, Table, and_, bindparam, case, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.records import Approval, Message, Segment, Thread, Turn
from gateway.store.tables import POSITIONS, approvals, messages, segments, threads, turns

THREAD = tuple(threads.c[name] for name in Thread.__struct_fields__)
_of_message = ("content", "attachments")
TURN = tuple((messages if name in _of_message else turns).c[name] for name in Turn.__struct_fields__)
SEGMENT = tuple(segments.c[name] for name in Segment.__struct_fields__)

TURNS_WITH_MESSAGE = turns.join(
    messages, and_(messages.c.thread_key == turns.c.thread_key, messages.c.position == POSITIONS * turns.c.number)
)
MESSAGES_WITH_TURN = messages.join(
    turns, and_(turns.c.thread_key == messages.c.thread_key, turns.c.number == messages.c.position // POSITIONS)
)
_retries = turns.alias("retries")
IS_ANSWER = messages.c.position % POSITIONS == POSITIONS - 1
MESSAGE = (
    messages.c.message_id,
    turns.c.turn_id,
    messages.c.position,
    messages.c.content,
    messages.c.attachments,
    case((IS_ANSWER, turns.c.status)).label("status"),
    messages.c.created_at,
    exists().where(_retries.c.retry_of == turns.c.turn_id).label("retried"),
)
APPROVAL = tuple((threads if name == "thread_id" else approvals).c[name] for name in Approval.__struct_fields__)


def select_turns() -> Select[Any]:
    return select(*TURN).select_from(TURNS_WITH_MESSAGE)


def select_messages() -> Select[Any]:
    """Messages that history shows: not those of queued turns."""
    return select(*MESSAGE).select_from(MESSAGES_WITH_TURN).where(turns.c.status != "queued")


def thread_of(row: Sequence[Any]) -> Thread:
    return Thread(**_named(Thread.__struct_fields__, row))


def turn_of(row: Sequence[Any]) -> Turn:
    fields = _named(Turn.__struct_fields__, row)
    fields["attachments"] = fields["attachments"] or ()
    return Turn(**fields)


def segment_of(row: Sequence[Any]) -> Segment:
    first, last, events = row
    return Segment(first=first, last=last, events=bytes(events))


def message_of(row: Sequence[Any]) -> Message:
    message_id, turn_id, position, content, attachments, status, created_at, retried = row
    return Message(
        message_id=message_id,
        turn_id=turn_id,
        position=position,
        role="assistant" if position % POSITIONS == POSITIONS - 1 else "user",
        content=content,
        attachments=attachments or (),
        status=status,
        created_at=created_at,
        retried=bool(retried),
    )


def approval_of(row: Sequence[Any]) -> Approval:
    return Approval(**_named(Approval.__struct_fields__, row))


def _named(names: tuple[str, ...], row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, row, strict=True))


_QUEUES = {"ids": 1, "adopt": 2, "attachments": 3, "tokens": 4, "bytes": 5}
_QUEUE_UP = select(func.pg_advisory_xact_lock(bindparam("queue", type_=Integer), bindparam("place", type_=Integer)))


def queue_up(connection: Connection, name: str, what: str = "") -> None:
    """Wait until no other transaction holds this name, and hold it to the end of this one.

    Where a transaction looks at rows and then writes others that depend on them, and no row is common to all who do:
    in Postgres nothing else keeps two of them apart. In SQLite there is one writer.
    """
    if connection.dialect.name == "postgresql":
        key = zlib.crc32(what.encode()) - 2**31  # the function takes two signed numbers of 32 bits
        connection.execute(_QUEUE_UP, {"queue": _QUEUES[name], "place": key})


def insert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that may say `on conflict`; both databases write it alike."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
