"""Single messages: what identifies one, where it stands, and how it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from gateway.store.records import NewTurn
from gateway.store.tables import POSITIONS, messages

INSERT_MESSAGE = messages.insert()


def fingerprint(new: NewTurn) -> bytes:
    """What a repeated send has in common with the first, but for the thread."""
    return hashlib.sha256(msgspec.json.encode((new.content, new.agent, new.attachments), order="sorted")).digest()


def answer_position(number: int) -> int:
    """Where the answer of a turn stands in its thread."""
    return POSITIONS * (number + 1) - 1


def insert_message(
    connection: Connection,
    thread_key: int,
    position: int,
    message_id: str,
    at: int,
    content: str,
    attachments: Sequence[Any] = (),
) -> None:
    fields = {
        "thread_key": thread_key,
        "position": position,
        "message_id": message_id,
        "created_at": at,
        "attachments": list(attachments) or None,
        "content": content,
    }
    connection.execute(INSERT_MESSAGE, fields)
