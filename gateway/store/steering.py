"""Messages that are handed to a running turn. Each function is part of one transaction."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, String, bindparam, delete, exists, func, select

from gateway.errors import IdConflict, QueueFull
from gateway.store import attachments
from gateway.store.messages import answer_position, fingerprint, insert_message
from gateway.store.records import Accepted, NewTurn, Thread, Turn
from gateway.store.rows import THREAD, select_turns, thread_of, turn_of
from gateway.store.tables import POSITIONS, messages, steers, threads, turns


class IdTaken(Exception):
    """The user sent a message with this `client_id` before: undo all, and answer with that one."""


TAKEN = exists().where(
    steers.c.user_id == bindparam("user_id"), steers.c.client_id == bindparam("client_id", type_=String)
)
"""Whether the client's id names a message that was handed to a running turn."""
STARTED = select(turns.c.key).where(
    turns.c.user_id == bindparam("user_id"), turns.c.client_id == bindparam("client_id", type_=String)
)
"""Whether it names one that a turn began with: perhaps the very one that runs now."""


def steer(connection: Connection, thread: Thread, new: NewTurn) -> Accepted | None:
    """Add the message to the turn `new.steer_into`; None if it does not run in this thread.

    Raises:
        IdTaken: a turn began with it.
    """
    name = {"user_id": new.user_id, "client_id": new.client_id}
    if new.client_id is not None and connection.scalars(STARTED, name).one_or_none() is not None:
        raise IdTaken
    wanted = select_turns().where(turns.c.thread_key == thread.key, turns.c.turn_id == new.steer_into)
    row = connection.execute(wanted.where(turns.c.status == "running")).one_or_none()
    if row is None:
        return None
    turn = turn_of(row)
    within = (messages.c.thread_key == thread.key) & (messages.c.position < answer_position(turn.number))
    position = connection.scalars(select(func.max(messages.c.position)).where(within)).one() + 1
    if position >= answer_position(turn.number):
        raise QueueFull
    attachments.use(connection, new.user_id, thread.key, new.attachments)
    insert_message(connection, thread.key, position, new.message_id, new.at, new.content, new.attachments)
    if new.client_id is not None:
        connection.execute(
            steers.insert().values(
                message_id=new.message_id,
                thread_key=thread.key,
                user_id=new.user_id,
                client_id=new.client_id,
                fingerprint=fingerprint(new),
            )
        )
    return _accepted(thread, turn, new, new.message_id, duplicate=False)


def existing(connection: Connection, new: NewTurn) -> Accepted | None:
    """The steering message that `new` repeats, with its turn; None if there is none.

    Raises:
        IdConflict: it is not a repetition.
    """
    mine = (steers.c.user_id == new.user_id) & (steers.c.client_id == new.client_id)
    found = connection.execute(select(steers).where(mine)).one_or_none()
    if found is None:
        return None
    thread = thread_of(connection.execute(select(*THREAD).where(threads.c.key == found.thread_key)).one())
    if bytes(found.fingerprint) != fingerprint(new) or thread.thread_id != new.thread_id:
        raise IdConflict
    place = select(messages.c.position).where(messages.c.message_id == found.message_id)
    number = connection.scalars(place).one() // POSITIONS
    of_number = (turns.c.thread_key == thread.key) & (turns.c.number == number)
    turn = turn_of(connection.execute(select_turns().where(of_number)).one())
    return _accepted(thread, turn, new, found.message_id, duplicate=True)


def unsteer(connection: Connection, message_id: str) -> None:
    """Take a steering message back that its turn did not take."""
    connection.execute(delete(steers).where(steers.c.message_id == message_id))
    connection.execute(delete(messages).where(messages.c.message_id == message_id))


def _accepted(thread: Thread, turn: Turn, new: NewTurn, message_id: str, *, duplicate: bool) -> Accepted:
    handed = msgspec.structs.replace(
        turn, message_id=message_id, client_id=new.client_id, content=new.content, attachments=new.attachments
    )
    return Accepted(thread=thread, turn=handed, duplicate=duplicate, created_thread=False, queued=0, steered=True)
