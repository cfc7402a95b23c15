"""Threads made of sessions that began elsewhere. The body of one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, Text, cast, literal, select

from gateway.store.messages import answer_position, insert_message
from gateway.store.records import Adoption, Thread
from gateway.store.rows import THREAD, insert, queue_up, thread_of
from gateway.store.tables import POSITIONS, Json, threads, turns
from gateway.store.turns import GRAVE


def adopt(connection: Connection, adoption: Adoption) -> tuple[Thread, bool]:
    """The thread, and whether it was made just now.

    A thread that goes on with the session already, because it was begun from here or adopted before, is that thread.
    """
    queue_up(connection, "adopt", adoption.user_id)
    if (known := _with_session(connection, adoption)) is not None:
        return known, False
    grave = connection.scalars(GRAVE, {"user_id": adoption.user_id, "thread_id": adoption.thread_id}).one_or_none()
    made = connection.scalars(
        insert(connection.dialect.name, threads)
        .values(
            user_id=adoption.user_id,
            thread_id=adoption.thread_id,
            agent=adoption.agent,
            title=adoption.title,
            epoch=adoption.epoch if grave is None else max(adoption.epoch, grave + 1),
            head=0,
            read_position=POSITIONS * (len(adoption.exchanges) + 1) - 1,
            session=dict(adoption.session),
            created_at=adoption.at,
            updated_at=adoption.at,
        )
        .on_conflict_do_nothing(index_elements=[threads.c.user_id, threads.c.thread_id])
        .returning(threads.c.key)
    ).one_or_none()
    of_user = (threads.c.user_id == adoption.user_id) & (threads.c.thread_id == adoption.thread_id)
    row = connection.execute(select(*THREAD).where(of_user)).one_or_none()
    if row is None:
        return adopt(connection, adoption)  # the other one was deleted meanwhile
    thread = thread_of(row)
    if made is not None:
        for number, exchange in enumerate(adoption.exchanges, 1):
            connection.execute(
                turns.insert().values(
                    turn_id=exchange.turn_id,
                    thread_key=thread.key,
                    number=number,
                    user_id=adoption.user_id,
                    fingerprint=b"",
                    thread_chosen=False,
                    agent=adoption.agent,
                    status="completed",
                    message_id=exchange.message_id,
                    answer_id=exchange.answer_id,
                    start=0,
                    created_at=adoption.at,
                    started_at=adoption.at,
                    finished_at=adoption.at,
                )
            )
            question, answer = POSITIONS * number, answer_position(number)
            insert_message(connection, thread.key, question, exchange.message_id, adoption.at, exchange.question)
            insert_message(connection, thread.key, answer, exchange.answer_id, adoption.at, exchange.answer)
    return thread, made is not None


def _with_session(connection: Connection, adoption: Adoption) -> Thread | None:
    """The user's newest thread with this very session. Compared as text: the provider made both in the same way."""
    session = cast(literal(dict(adoption.session), Json), Text)
    same = (threads.c.user_id == adoption.user_id) & (threads.c.agent == adoption.agent)
    found = select(*THREAD).where(same, cast(threads.c.session, Text) == session).order_by(threads.c.updated_at.desc())
    row = connection.execute(found.limit(1)).one_or_none()
    return None if row is None else thread_of(row)
