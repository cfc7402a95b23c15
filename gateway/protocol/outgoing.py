"""The frames to clients, as msgspec structs, because they are encoded once per piece of text; encoding, cutting to fit.

The logged frames are also the events of the log: an event is the frame that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gateway.text import cut, cut_json, json_size


class Frame(msgspec.Struct, tag_field="type", gc=False):
    timestamp: str
    """RFC 3339, UTC, milliseconds. A logged frame shows when its event happened."""


class Ready(Frame, tag="ready"):
    protocol: int
    agent: str
    user_id: str
    connection_id: str
    heartbeat_seconds: float
    capabilities: list[str]
    limits: dict[str, int]
    expires_at: str | None


class Accepted(Frame, tag="accepted"):
    id: str | None
    thread_id: str
    turn_id: str
    message_id: str
    cursor: str
    duplicate: bool
    queued: int


class Typing(Frame, tag="typing"):
    thread_id: str
    turn_id: str
    active: bool


class OpenTurn(msgspec.Struct, frozen=True, gc=False):
    turn_id: str
    status: str
    queued: int


class Attached(Frame, tag="attached"):
    thread_id: str
    recovered: bool
    cursor: str
    turns: list[OpenTurn]


class ShownAttachment(msgspec.Struct, frozen=True, gc=False):
    """An attachment as messages show it. Its bytes: `GET /api/attachments/{id}`."""

    id: str
    name: str
    content_type: str
    size: int


def shown_attachments(stored: Sequence[Any]) -> Sequence[ShownAttachment]:
    """The attachments of a message, as the store keeps them."""
    return msgspec.convert(stored, tuple[ShownAttachment, ...])


class ShownMessage(msgspec.Struct, frozen=True, gc=False):
    """A message as snapshots and the history show it."""

    message_id: str
    turn_id: str
    role: Literal["user", "assistant"]
    content: str
    created_at: str
    attachments: Sequence[ShownAttachment] | UnsetType = UNSET
    """A user's; missing in an answer."""
    status: Literal["queued", "running", "completed", "cancelled", "failed", "interrupted"] | UnsetType | None = UNSET
    """An answer's: how its turn ended."""
    truncated: bool | UnsetType = UNSET
    length: int | UnsetType = UNSET


class Snapshot(Frame, tag="snapshot"):
    thread_id: str
    cursor: str
    messages: list[ShownMessage]
    turn: dict[str, Any] | None
    approvals: list[dict[str, Any]]


class Detached(Frame, tag="detached"):
    thread_id: str


class Read(Frame, tag="read"):
    thread_id: str
    message_id: str


class ThreadUpdated(Frame, tag="thread_updated"):
    thread_id: str
    agent: str
    title: str
    status: Literal["idle", "running", "deleted"]
    unread: int
    preview: str


class Error(Frame, tag="error"):
    code: str
    message: str
    retryable: bool
    retry_after: float | UnsetType = UNSET
    id: str | UnsetType = UNSET
    thread_id: str | UnsetType = UNSET
    field: str | UnsetType = UNSET


class Pong(Frame, tag="pong"):
    nonce: str | int | float | None


class Goodbye(Frame, tag="goodbye"):
    reason: str
    reconnect_after_ms: int


class LoggedFrame(Frame):
    """A frame that shows an event of a thread's log; `cursor` is the event's place."""

    thread_id: str
    turn_id: str
    cursor: str


class UserMessage(LoggedFrame, tag="user_message"):
    message_id: str
    id: str | None
    content: str
    attachments: Sequence[ShownAttachment] = ()
    truncated: bool | UnsetType = UNSET
    length: int | UnsetType = UNSET


class Message(LoggedFrame, tag="message"):
    item_id: str
    content: str


class Reset(LoggedFrame, tag="reset"):
    content: str
    truncated: bool | UnsetType = UNSET
    length: int | UnsetType = UNSET


class Reasoning(LoggedFrame, tag="reasoning"):
    item_id: str
    content: str


class ToolCall(LoggedFrame, tag="tool_call"):
    call_id: str
    name: str
    title: str
    arguments: Mapping[str, Any]
    truncated: bool | UnsetType = UNSET


class ToolResult(LoggedFrame, tag="tool_result"):
    call_id: str
    status: Literal["completed", "failed"]
    summary: str
    truncated: bool | UnsetType = UNSET
    length: int | UnsetType = UNSET


class ApprovalOption(msgspec.Struct, frozen=True, gc=False):
    id: str
    label: str


class ApprovalRequest(LoggedFrame, tag="approval_request"):
    approval_id: str
    call_id: str | None
    kind: str
    title: str
    detail: Mapping[str, Any]
    options: Sequence[ApprovalOption]
    free_text: bool
    expires_at: str
    truncated: bool | UnsetType = UNSET


class ApprovalResolved(LoggedFrame, tag="approval_resolved"):
    approval_id: str
    decision: str
    by: str | None


class StandingDecision(Frame, tag="approval_resolved"):
    """The `approval_resolved` that stands, as the answer to a late decision. Not logged a second time, so it names no
    place: a client that kept its cursor would go back in the log."""

    thread_id: str
    turn_id: str
    approval_id: str
    decision: str
    by: str | None


class Done(LoggedFrame, tag="done"):
    status: Literal["completed", "cancelled", "failed", "interrupted"]
    message_id: str
    content: str
    stop_reason: str | None
    usage: Mapping[str, int]
    duration_ms: int
    error: Mapping[str, Any] | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    length: int | UnsetType = UNSET


Event: TypeAlias = (
    UserMessage | Message | Reset | Reasoning | ToolCall | ToolResult | ApprovalRequest | ApprovalResolved | Done
)
AnyServerFrame: TypeAlias = (
    Event | Ready | Accepted | Typing | Attached | Snapshot | Detached | Read | ThreadUpdated | Error | Pong | Goodbye
)

Sized = TypeVar("Sized", UserMessage, Reset, ToolCall, ToolResult, ApprovalRequest, Done)
_encoder = msgspec.json.Encoder()


def encode(frame: Frame) -> str:
    """The frame as the text of one WebSocket message or one SSE event."""
    return _encoder.encode(frame).decode()


def encode_json(value: object) -> str:
    """A JSON value as text."""
    return _encoder.encode(value).decode()


def fitted(frame: Sized, limit: int) -> Sized:
    """The frame with its long part cut so that it takes at most `limit` bytes.

    A cut text says `truncated` and its whole `length` in code points.
    """
    size = json_size(frame)
    if size <= limit:
        return frame
    if isinstance(frame, ToolCall):
        room = limit - (size - json_size(frame.arguments)) - len(',"truncated":true')
        return msgspec.structs.replace(frame, arguments=cut_json(frame.arguments, room), truncated=True)
    if isinstance(frame, ApprovalRequest):
        room = limit - (size - json_size(frame.detail)) - len(',"truncated":true')
        return msgspec.structs.replace(frame, detail=cut_json(frame.detail, room), truncated=True)
    name = "summary" if isinstance(frame, ToolResult) else "content"
    text: str = getattr(frame, name)
    room = limit - (size - json_size(text)) - len(',"truncated":true,"length":') - 20
    return msgspec.structs.replace(frame, **{name: cut(text, room)}, truncated=True, length=len(text))
