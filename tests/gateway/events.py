"""Events and threads made by hand, for tests of the parts that handle them."""

from __future__ import annotations

from typing import Any

from gateway import protocol
from gateway.eventlog.log import ThreadLog
from gateway.store.base import Store
from gateway.store.records import Accepted, NewTurn

TIME = "2026-11-20T07:40:00.123Z"
EPOCH = 1_000


def add(log: ThreadLog, kind: Any, turn_id: str = "u1", /, **fields: Any) -> Any:
    """Append one event to the log."""
    frame = kind(timestamp=TIME, thread_id=log.thread_id, turn_id=turn_id, cursor=log.next_cursor(), **fields)
    log.append(frame)
    return frame


def say(log: ThreadLog, content: str, item_id: str = "a", turn_id: str = "u1") -> protocol.Message:
    message: protocol.Message = add(log, protocol.Message, turn_id, item_id=item_id, content=content)
    return message


def think(log: ThreadLog, content: str, item_id: str = "r", turn_id: str = "u1") -> protocol.Reasoning:
    reasoning: protocol.Reasoning = add(log, protocol.Reasoning, turn_id, item_id=item_id, content=content)
    return reasoning


def ask(log: ThreadLog, content: str = "Hi", turn_id: str = "u1") -> protocol.UserMessage:
    asked: protocol.UserMessage = add(log, protocol.UserMessage, turn_id, message_id="m", id=None, content=content)
    return asked


def end(log: ThreadLog, content: str = "", turn_id: str = "u1") -> protocol.Done:
    done: protocol.Done = add(
        log,
        protocol.Done,
        turn_id,
        status="completed",
        message_id="a",
        content=content,
        stop_reason="end_turn",
        usage={},
        duration_ms=1,
    )
    return done


def empty_log(thread_id: str = "t", key: int = 1, head: int = 0) -> ThreadLog:
    return ThreadLog(key=key, user_id="alice", thread_id=thread_id, epoch=EPOCH, head=head)


async def accept(store: Store, name: str = "1", **changes: Any) -> Accepted:
    """A turn in the store, of a new thread unless it is told of one."""
    fields: dict[str, Any] = {
        "user_id": "alice",
        "agent": "demo",
        "thread_id": f"t{name}",
        "client_id": None,
        "turn_id": f"u{name}",
        "message_id": f"m{name}",
        "answer_id": f"a{name}",
        "content": "Hi",
        "epoch": EPOCH,
        "title": "Hi",
        "queue_limit": 8,
        "at": 5_000,
    }
    return await store.accept(NewTurn(**fields | changes))
