"""Turns: accepted, started, cancelled, finished. Each function is the body of one transaction."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Insert, Select, String, bindparam, exists, func, literal_column, select, update

from gateway.store import attachments, outbox, steering
from gateway.store.base import IdConflict, QueueFull, WrongAgent
from gateway.store.log import checkpoint, restart
from gateway.store.messages import answer_position, fingerprint, insert_message
from gateway.store.records import Accepted, Claim, NewTurn, Outcome, PushPlan, Thread, Turn
from gateway.store.rows import THREAD, TURN, TURNS_WITH_MESSAGE, insert, queue_up, select_turns, thread_of, turn_of
from gateway.store.tables import POSITIONS, threads, tombstones, turns
from gateway.store.threads import lock, touch

UNFINISHED: dict[str, Any] = dict.fromkeys(
    ("finished_at", "stop_reason", "usage", "error", "duration_ms", "attempt")
) | {"cancel_asked": False}


ENDING = ("status", "finished_at", "stop_reason", "usage", "error", "duration_ms")
"""The columns that the end of a turn sets."""


# Statements of `accept` are built once: building them anew took more than half of its time.
_OWN = (threads.c.user_id == bindparam("user_id"), threads.c.thread_id == bindparam("thread_id"))
THREAD_FOR_UPDATE = select(*THREAD).where(*_OWN).with_for_update()
GRAVE = select(tombstones.c.epoch).where(
    tombstones.c.user_id == bindparam("user_id"), tombstones.c.thread_id == bindparam("thread_id")
)
_of_thread = turns.c.thread_key == bindparam("of")
_open = select(func.count()).select_from(turns).where(_of_thread, turns.c.finished_at.is_(None))
QUEUE = select(
    steering.TAKEN.label("taken"),
    select(func.coalesce(func.max(turns.c.number), 0)).where(_of_thread).scalar_subquery().label("last"),
    _open.scalar_subquery().label("open"),
    _open.where(turns.c.status == "queued").scalar_subquery().label("waiting"),
)


_turn = turns.c.turn_id == bindparam("turn")
LOCK_OF_TURN = select(*THREAD).join(turns, turns.c.thread_key == threads.c.key).where(_turn).with_for_update(of=threads)
ENDED = (
    update(turns)
    .where(_turn, turns.c.status == "running", turns.c.attempt.is_not_distinct_from(bindparam("as", type_=String)))
    .values({name: bindparam(f"new_{name}") for name in ENDING})
    .returning(turns.c.number, turns.c.answer_id)
)
OPEN = select(turns.c.key, turns.c.status).where(_of_thread, turns.c.finished_at.is_(None)).order_by(turns.c.number)
RUNNING = select_turns().where(_turn, turns.c.status == "running")
CLAIM = (
    update(turns)
    .where(_turn, turns.c.status == "running", turns.c.attempt.is_(None))
    .values(attempt=bindparam("as"), claimed_at=bindparam("since"))
)
UNSHOWN = select_turns().where(_of_thread, turns.c.unshown).order_by(turns.c.number)


@cache
def _insert_thread(dialect: str) -> Insert:
    row = insert(dialect, threads)
    return row.on_conflict_do_nothing(index_elements=[threads.c.user_id, threads.c.thread_id]).returning(*THREAD)


@cache
def _insert_turn(dialect: str) -> Insert:
    """Whichever constraint refuses it, `existing` tells."""
    return insert(dialect, turns).on_conflict_do_nothing().returning(turns.c.key)


def accept(connection: Connection, new: NewTurn) -> Accepted:
    """Raises: IdTaken, WrongAgent, QueueFull: the transaction is to be undone."""
    thread, created = _thread_for(connection, new)
    if new.client_id is not None:  # of two with the same id, one sees the other
        queue_up(connection, "ids", f"{new.user_id} {new.client_id}")
    asked: dict[str, Any] = {"of": thread.key, "user_id": new.user_id, "client_id": new.client_id}
    taken, last, ahead, waiting = connection.execute(QUEUE, asked).one()
    if taken:
        raise steering.IdTaken
    if new.steer_into is not None and (steered := steering.steer(connection, thread, new)) is not None:
        return steered
    fields: dict[str, Any] = {
        "turn_id": new.turn_id,
        "thread_key": thread.key,
        "number": last + 1,
        "agent": new.agent,
        "status": "queued" if ahead else "running",
        "client_id": new.client_id,
        "message_id": new.message_id,
        "answer_id": new.answer_id,
        "start": None if ahead else thread.head,
        "retry_of": new.retry_of,
        "created_at": new.at,
        "started_at": None if ahead else new.at,
    }
    identity = {
        "user_id": new.user_id,
        "fingerprint": fingerprint(new),
        "thread_chosen": new.thread_chosen_by_client,
    }
    key = connection.scalars(_insert_turn(connection.dialect.name), fields | identity).one_or_none()
    if key is None:
        raise steering.IdTaken
    if thread.agent != new.agent:
        raise WrongAgent(thread.agent)
    if ahead and waiting >= new.queue_limit:
        raise QueueFull
    attachments.use(connection, new.user_id, thread.key, new.attachments)
    insert_message(connection, thread.key, POSITIONS * (last + 1), new.message_id, new.at, new.content, new.attachments)
    thread = touch(connection, thread, new.at)
    turn = Turn(key=key, content=new.content, attachments=new.attachments, **fields, **UNFINISHED)
    return Accepted(thread=thread, turn=turn, duplicate=False, created_thread=created, queued=ahead)


def _thread_for(connection: Connection, new: NewTurn) -> tuple[Thread, bool]:
    name = {"user_id": new.user_id, "thread_id": new.thread_id}
    fields = {
        "agent": new.agent,
        "title": new.title,
        "epoch": new.epoch,
        "head": 0,
        "read_position": 0,
        "created_at": new.at,
        "updated_at": new.at,
    }
    while (row := connection.execute(THREAD_FOR_UPDATE, name).one_or_none()) is None:
        # If somebody else makes it just now, this waits until he has, and makes none.
        made = connection.execute(_insert_thread(connection.dialect.name), name | fields).one_or_none()
        if made is not None:
            thread = thread_of(made)
            buried = connection.scalars(GRAVE, name).one_or_none()
            if buried is not None and buried >= new.epoch:
                connection.execute(update(threads).where(threads.c.key == thread.key).values(epoch=buried + 1))
                thread = msgspec.structs.replace(thread, epoch=buried + 1)
            return thread, True
    return thread_of(row), False


def existing(connection: Connection, new: NewTurn) -> Accepted | None:
    """The turn that `new` repeats; None if it has been deleted meanwhile.

    A client that lets the server choose the thread repeats itself by letting it choose again, or by naming
    the one chosen.

    Raises:
        IdConflict: it is not a repetition.
    """
    found = connection.execute(
        select(*TURN, turns.c.fingerprint, turns.c.thread_chosen)
        .select_from(TURNS_WITH_MESSAGE)
        .where(turns.c.user_id == new.user_id, turns.c.client_id == new.client_id)
    ).one_or_none()
    if found is None:
        return steering.existing(connection, new)
    *_, first_fingerprint, chosen = found
    turn = turn_of(found[:-2])
    thread = thread_of(connection.execute(select(*THREAD).where(threads.c.key == turn.thread_key)).one())
    same_thread = thread.thread_id == new.thread_id if new.thread_chosen_by_client else not chosen
    if bytes(first_fingerprint) != fingerprint(new) or not same_thread:
        raise IdConflict
    ahead = 0
    if turn.status == "queued":
        before = select(func.count()).where(
            turns.c.thread_key == thread.key, turns.c.finished_at.is_(None), turns.c.number < turn.number
        )
        ahead = connection.scalars(before).one()
    return Accepted(thread=thread, turn=turn, duplicate=True, created_thread=False, queued=ahead)


def finish(connection: Connection, outcome: Outcome, told: outbox.Told) -> Turn | None:
    """Raises: LookupError: no such turn runs under this attempt, or its thread has another epoch. ValueError: the
    checkpoint is another thread's, or leaves a gap."""
    thread = _locked_by_turn(connection, outcome.turn_id)
    if thread is None:
        raise LookupError("there is no such turn")
    values = {f"new_{name}": getattr(outcome, name) for name in ENDING if name != "finished_at"}
    of_turn = {"turn": outcome.turn_id, "as": outcome.attempt, "new_finished_at": outcome.at}
    ended = connection.execute(ENDED, of_turn | values).one_or_none()
    if ended is None:
        raise LookupError("the turn is not running")
    if outcome.checkpoint.thread_key != thread.key:
        raise ValueError("the checkpoint is of another thread")
    last = outcome.checkpoint
    if outcome.epoch is not None:
        thread = restart(connection, thread, outcome.epoch, last.segment)
        last = msgspec.structs.replace(last, epoch=thread.epoch)
    if checkpoint(connection, [last], thread):
        raise LookupError("others have gone on with the thread")
    if last.segment is not None:
        thread = msgspec.structs.replace(thread, head=max(thread.head, last.segment.last))
    position = answer_position(ended.number)
    insert_message(connection, thread.key, position, ended.answer_id, outcome.at, outcome.content)
    touch(connection, thread, outcome.at)
    if outcome.push is not None:
        outbox.enqueue(connection, thread, position, outcome.push, outcome.at, told)
    return _start_next(connection, thread, outcome.at) if outcome.start_next else None


def _locked_by_turn(connection: Connection, turn_id: str) -> Thread | None:
    row = connection.execute(LOCK_OF_TURN, {"turn": turn_id}).one_or_none()
    return None if row is None else thread_of(row)


def start_next(connection: Connection, thread_key: int, at: int) -> Turn | None:
    thread = lock(connection, thread_key)
    return None if thread is None else _start_next(connection, thread, at)


def _start_next(connection: Connection, thread: Thread, at: int) -> Turn | None:
    queue = connection.execute(OPEN, {"of": thread.key}).all()
    if not queue or any(row.status == "running" for row in queue):
        return None
    connection.execute(
        update(turns).where(turns.c.key == queue[0].key).values(status="running", start=thread.head, started_at=at)
    )
    return turn_of(connection.execute(select_turns().where(turns.c.key == queue[0].key)).one())


def cancel_queued(connection: Connection, thread_key: int, turn_id: str | None, at: int) -> list[Turn]:
    thread = lock(connection, thread_key)
    if thread is None:
        return []
    queued = (turns.c.thread_key == thread_key) & (turns.c.status == "queued")
    if turn_id is not None:
        queued &= turns.c.turn_id == turn_id
    cancelled = (
        update(turns)
        .where(queued)
        .values(status="cancelled", finished_at=at, start=thread.head, unshown=True)
        .returning(turns.c.key, turns.c.number, turns.c.answer_id)
    )
    rows = connection.execute(cancelled).all()
    for row in rows:
        insert_message(connection, thread_key, answer_position(row.number), row.answer_id, at, "")
    if rows:
        touch(connection, thread, at)
    keys = [row.key for row in rows]
    found = connection.execute(select_turns().where(turns.c.key.in_(keys)).order_by(turns.c.number))
    return [turn_of(row) for row in found]


def unshown(connection: Connection, thread_key: int) -> list[Turn]:
    found = connection.execute(UNSHOWN, {"of": thread_key})
    return [turn_of(row) for row in found]


def with_unshown(connection: Connection) -> list[int]:
    return list(connection.scalars(select(turns.c.thread_key).where(turns.c.unshown).distinct()))


def claim(connection: Connection, turn_id: str, attempt: str, at: int) -> Claim | None:
    thread = _locked_by_turn(connection, turn_id)
    if thread is None:
        return None
    connection.execute(CLAIM, {"turn": turn_id, "as": attempt, "since": at})
    row = connection.execute(RUNNING, {"turn": turn_id}).one_or_none()
    return None if row is None else Claim(thread=thread, turn=turn_of(row), unshown=unshown(connection, thread.key))


def ask_cancel(connection: Connection, thread_key: int, turn_id: str | None) -> list[Turn]:
    lock(connection, thread_key)
    which = (turns.c.thread_key == thread_key) & (turns.c.status == "running")
    if turn_id is not None:
        which &= turns.c.turn_id == turn_id
    keys = list(connection.scalars(update(turns).where(which).values(cancel_asked=True).returning(turns.c.key)))
    return [turn_of(row) for row in connection.execute(select_turns().where(turns.c.key.in_(keys)))]


def unclaimed(connection: Connection, started_before: int, limit: int) -> list[str]:
    free = turns.c.attempt.is_(None) & (turns.c.started_at < started_before)
    return list(connection.scalars(_running_ids(limit).where(free)))


def claimed(connection: Connection, limit: int) -> list[str]:
    return list(connection.scalars(_running_ids(limit).where(turns.c.attempt.is_not(None))))


def cancel_asked(connection: Connection, limit: int) -> list[str]:
    asked = turns.c.cancel_asked & turns.c.attempt.is_not(None)
    return list(connection.scalars(_running_ids(limit).where(asked)))


def _running_ids(limit: int) -> Select[tuple[str]]:
    runs = turns.c.status == literal_column("'running'")  # not a parameter: Postgres then sees that its index will do
    return select(turns.c.turn_id).where(runs).order_by(turns.c.key).limit(limit)


def running(connection: Connection) -> list[tuple[Thread, Turn]]:
    return _with_thread(connection, turns.c.status == "running")


def turn(connection: Connection, user_id: str | None, turn_id: str) -> tuple[Thread, Turn] | None:
    mine = turns.c.turn_id == turn_id
    if user_id is not None:
        mine &= turns.c.user_id == user_id
    found = _with_thread(connection, mine)
    return found[0] if found else None


def _with_thread(connection: Connection, which: Any) -> list[tuple[Thread, Turn]]:
    statement = (
        select(*THREAD, *TURN)
        .select_from(TURNS_WITH_MESSAGE.join(threads, threads.c.key == turns.c.thread_key))
        .where(which)
        .order_by(turns.c.key)
    )
    cut = len(THREAD)
    return [(thread_of(row[:cut]), turn_of(row[cut:])) for row in connection.execute(statement)]


def waiting(connection: Connection) -> list[Thread]:
    of_thread = turns.c.thread_key == threads.c.key
    queued = exists().where(of_thread, turns.c.finished_at.is_(None))
    runs = exists().where(of_thread, turns.c.status == "running")
    return [thread_of(row) for row in connection.execute(select(*THREAD).where(queued, ~runs).order_by(threads.c.key))]


def open_turns(connection: Connection, thread_key: int) -> list[Turn]:
    statement = select_turns().where(turns.c.thread_key == thread_key, turns.c.finished_at.is_(None))
    return [turn_of(row) for row in connection.execute(statement.order_by(turns.c.number))]


def enqueue_push(connection: Connection, turn_id: str, wanted: PushPlan, at: int, told: outbox.Told) -> None:
    """A push about a turn that still runs. Nothing happens if there is no such turn."""
    row = connection.execute(select(turns.c.thread_key, turns.c.number).where(turns.c.turn_id == turn_id)).one_or_none()
    thread = None if row is None else lock(connection, row.thread_key)
    if row is not None and thread is not None:
        outbox.enqueue(connection, thread, answer_position(row.number), wanted, at, told)
