"""What a driver of a stream drives: what to say on each new connection, and what each frame means. No I/O.

The driver, asynchronous or blocking, connects, calls `connected`, sends what is in `outgoing`, hands every frame to
`receive`, and starts over when the connection is lost. `needs_turn` asks it for `GET /api/turns/{id}`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from agentline.endings import Lost
from agentline.errors import AgentlineError, ContractBroken, refused
from agentline.events import ErrorFrame, Event, Ready, Snapshot, Typing
from agentline.records import Turn

__all__ = ["Session", "attach_frame", "checked_ready", "encoded", "moved", "new_message", "refusal"]

PROTOCOL = 1
_encoder = msgspec.json.Encoder()


class Session(Protocol):
    """What a driver drives."""

    outgoing: list[str]
    """Frames to send, in order; the driver empties it."""
    answered: bool
    """Whether the gateway has taken up what this connection is for."""
    over: bool
    needs_turn: bool
    """Whether `looked_up` must be called with the turn before anything else can be told."""
    turn_id: str | None
    pause: float
    """Seconds that the gateway wants between this connection and the next."""

    def connected(self) -> None: ...

    def receive(self, text: str) -> list[Event]: ...

    def looked_up(self, turn: Turn) -> list[Event]: ...


def encoded(frame: dict[str, Any]) -> str:
    return _encoder.encode(frame).decode()


def new_message(
    content: str,
    *,
    id: str | None = None,
    thread_id: str | None = None,
    when_busy: str = "queue",
    attachments: Sequence[Any] = (),
) -> dict[str, Any]:
    """What a user says, as a frame or an HTTP body. It always has an `id`, so that sending it again is safe."""
    message: dict[str, Any] = {"content": content, "id": id if id is not None else uuid.uuid4().hex}
    if thread_id is not None:
        message["thread_id"] = thread_id
    if when_busy != "queue":
        message["when_busy"] = when_busy
    if attachments:
        message["attachments"] = list(attachments)
    return message


def moved(events: list[Event]) -> bool:
    """Whether these bring the caller on. What every new connection says again does not count."""
    return any(not isinstance(event, Typing | Snapshot) for event in events)


def attach_frame(thread_id: str, cursor: str | None) -> str:
    given = {} if cursor is None else {"cursor": cursor}
    return encoded({"type": "attach", "thread_id": thread_id, **given})


def checked_ready(frame: Ready) -> None:
    """Raises `ContractBroken` for another version of the protocol."""
    if frame.protocol != PROTOCOL:
        raise ContractBroken(f"the gateway speaks version {frame.protocol} of the protocol, this client {PROTOCOL}")


def refusal(frame: ErrorFrame) -> AgentlineError | Lost:
    """What the gateway's refusal of our frame means. Some pass: another node, or the same one later, takes it."""
    if frame.code in ("draining", "unavailable"):
        return Lost(frame.message, frame.retry_after or 0.0)
    return refused(
        frame.code,
        frame.message,
        retryable=frame.retryable,
        retry_after=frame.retry_after,
        field=frame.field,
    )
