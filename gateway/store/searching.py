"""Search over a user's messages. One transaction that only reads.

No index: every message of the user is looked at, in a thread of its own. In SQLite 10,000 messages of 1 KB take 17 ms
for words of ASCII, 120 ms for others. An index costs at every write, and none that SQLite has finds parts of words of
one or two characters, which is how Chinese and Japanese are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, tuple_

from gateway.store.records import Found, Thread
from gateway.store.rows import MESSAGE, MESSAGES_WITH_TURN, THREAD, message_of, thread_of
from gateway.store.tables import messages, threads, turns

_ORDER = (messages.c.created_at, messages.c.thread_key, messages.c.position)
_OF_THREAD = MESSAGES_WITH_TURN.join(threads, threads.c.key == messages.c.thread_key)


def search(
    connection: Connection,
    user_id: str,
    words: Sequence[str],
    *,
    agent: str | None,
    before: str | None,
    limit: int,
) -> list[Found] | None:
    own = threads.c.user_id == user_id
    statement = select(*THREAD, *MESSAGE).select_from(_OF_THREAD).where(own, turns.c.status != "queued")
    if agent is not None:
        statement = statement.where(threads.c.agent == agent)
    if before is not None:
        place = select(*_ORDER).select_from(_OF_THREAD).where(own, messages.c.message_id == before)
        row = connection.execute(place).one_or_none()
        if row is None:
            return None
        statement = statement.where(tuple_(*_ORDER) < tuple_(*row))
    for word in words:
        statement = statement.where(_holds(word, connection.dialect.name))
    statement = statement.order_by(*(column.desc() for column in _ORDER)).limit(limit)
    return [_found(row) for row in connection.execute(statement)]


def _found(row: Any) -> Found:
    cut = len(Thread.__struct_fields__)
    return Found(thread=thread_of(row[:cut]), message=message_of(row[cut:]))


def _holds(word: str, dialect: str) -> ColumnElement[bool]:
    """Whether a message's content holds the word in whatever case.

    SQLite's LIKE knows upper and lower case of ASCII only, and so does Postgres's ILIKE with the collation C, whatever
    the database's own is. SQLite's GLOB and a regular expression take a class of characters for each other one.
    """
    content = messages.c.content
    if dialect == "sqlite":
        if word.isascii():
            return content.contains(word, autoescape=True)
        return content.op("GLOB", is_comparison=True)(f"*{_either_case(word, '*?[')}*")
    plain = content.collate("C")
    if word.isascii():
        escaped = word.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return plain.op("ILIKE", is_comparison=True)(f"%{escaped}%")
    return plain.op("~", is_comparison=True)(_either_case(word, r".*+?^$()[{}|"))


def _either_case(word: str, special: str) -> str:
    """The word as a pattern in which the `special` characters mean something of their own."""
    classes = []
    for character in word:
        cases = {case for case in (character, character.lower(), character.upper()) if len(case) == 1}
        if character in "\\]^":  # what stands in no brackets alike in both
            classes.append(f"\\{character}" if "^" in special else character)
        elif len(cases) > 1 or character in special:
            classes.append(f"[{''.join(sorted(cases))}]")
        else:
            classes.append(character)
    return "".join(classes)
