"""The events of a stream: the frames of the protocol as frozen structs.

`docs/protocol.md` says what each field means. Times are RFC 3339 in UTC. Fields and frames that a newer gateway adds
are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from agentline.errors import ContractBroken

__all__ = [
    "Accepted",
    "ApprovalOption",
    "ApprovalRequest",
    "ApprovalResolved",
    "Attached",
    "Detached",
    "Done",
    "ErrorFrame",
    "Event",
    "Failure",
    "Frame",
    "Goodbye",
    "OpenTurn",
    "Ready",
    "Reasoning",
    "Reset",
    "ShownMessage",
    "ShownTool",
    "ShownTurn",
    "Snapshot",
    "Text",
    "ToolCall",
    "ToolResult",
    "Typing",
    "UserMessage",
    "decode",
]

Status: TypeAlias = Literal["completed", "cancelled", "failed", "interrupted"]


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    timestamp: str


class _Logged(_Frame, frozen=True, kw_only=True):
    """Of a thread's log. `cursor` is its place there: all that is needed to go on behind it."""

    thread_id: str
    turn_id: str
    cursor: str | None = None


class Accepted(_Frame, frozen=True, kw_only=True, tag="accepted"):
    """The message is durable: from here on it is never lost."""

    id: str | None
    thread_id: str
    turn_id: str
    message_id: str
    cursor: str
    duplicate: bool
    queued: int
    """Turns ahead of this one."""


class Typing(_Frame, frozen=True, kw_only=True, tag="typing"):
    """The agent is at work, or no longer."""

    thread_id: str
    turn_id: str
    active: bool


class UserMessage(_Logged, frozen=True, kw_only=True, tag="user_message"):
    """The turn begins with this message, from whichever device of the user."""

    message_id: str
    id: str | None = None
    content: str
    attachments: list[Any] = []
    truncated: bool = False
    length: int | None = None


class Text(_Logged, frozen=True, kw_only=True, tag="message"):
    """The next piece of the answer: append it."""

    content: str
    item_id: str = ""


class Reset(_Logged, frozen=True, kw_only=True, tag="reset"):
    """The answer so far is exactly `content`: replace what was shown, then go on appending."""

    content: str
    truncated: bool = False
    length: int | None = None


class Reasoning(_Logged, frozen=True, kw_only=True, tag="reasoning"):
    """The next piece of the model's visible reasoning."""

    content: str
    item_id: str = ""


class ToolCall(_Logged, frozen=True, kw_only=True, tag="tool_call"):
    """The agent uses a tool."""

    call_id: str
    name: str
    title: str = ""
    arguments: Mapping[str, Any] = {}
    truncated: bool = False


class ToolResult(_Logged, frozen=True, kw_only=True, tag="tool_result"):
    """A tool came back."""

    call_id: str
    status: str
    summary: str = ""
    truncated: bool = False
    length: int | None = None


class ApprovalOption(msgspec.Struct, frozen=True):
    id: str
    label: str


class ApprovalRequest(_Logged, frozen=True, kw_only=True, tag="approval_request"):
    """A person must decide: answer with `decide` and the id of an option. Unanswered, it expires as declined."""

    approval_id: str
    call_id: str | None = None
    kind: str = ""
    title: str = ""
    detail: Mapping[str, Any] = {}
    options: list[ApprovalOption] = []
    free_text: bool = False
    expires_at: str = ""
    truncated: bool = False


class ApprovalResolved(_Logged, frozen=True, kw_only=True, tag="approval_resolved"):
    """Decided, on this device or another."""

    approval_id: str
    decision: str
    """An option's id, `expired` or `cancelled`; `unknown` if it was decided while no connection could tell how."""
    by: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a turn did not complete."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


class Done(_Logged, frozen=True, kw_only=True, tag="done"):
    """The turn's last event, exactly one. `content` is the whole answer, never cut."""

    status: Status
    message_id: str
    content: str
    stop_reason: str | None = None
    usage: Mapping[str, int] = {}
    duration_ms: int = 0
    error: Failure | None = None
    truncated: bool = False
    length: int | None = None


class ShownMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the history."""

    message_id: str
    turn_id: str
    role: Literal["user", "assistant"]
    content: str
    created_at: str
    status: str | None = None
    """Of the turn, on an assistant's message."""
    attachments: list[Any] = []
    truncated: bool = False
    length: int | None = None


class ShownTool(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    title: str = ""
    status: str = "running"


class ShownTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A running turn as it stands."""

    turn_id: str
    status: str
    content: str = ""
    reasoning: str = ""
    tools: list[ShownTool] = []
    truncated: bool = False
    length: int | None = None


class ShownApproval(msgspec.Struct, frozen=True, kw_only=True):
    approval_id: str
    turn_id: str
    call_id: str | None = None
    kind: str = ""
    title: str = ""
    detail: Mapping[str, Any] = {}
    options: list[ApprovalOption] = []
    free_text: bool = False
    expires_at: str = ""


class Snapshot(_Frame, frozen=True, kw_only=True, tag="snapshot"):
    """The thread as it is: show this instead of everything before. Events behind it go on from here."""

    thread_id: str
    cursor: str
    messages: list[ShownMessage] = []
    turn: ShownTurn | None = None
    approvals: list[ShownApproval] = []


# --- about the connection: never handed to the caller -------------------------------------------------------


class Ready(_Frame, frozen=True, kw_only=True, tag="ready"):
    protocol: int


class OpenTurn(msgspec.Struct, frozen=True):
    turn_id: str
    status: str
    queued: int = 0


class Attached(_Frame, frozen=True, kw_only=True, tag="attached"):
    thread_id: str
    recovered: bool
    cursor: str
    turns: list[OpenTurn] = []


class Detached(_Frame, frozen=True, kw_only=True, tag="detached"):
    thread_id: str


class ErrorFrame(_Frame, frozen=True, kw_only=True, tag="error"):
    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    id: str | None = None
    field: str | None = None


class Goodbye(_Frame, frozen=True, kw_only=True, tag="goodbye"):
    reason: str = ""
    reconnect_after_ms: int = 0


Event: TypeAlias = (
    Accepted
    | Typing
    | UserMessage
    | Text
    | Reset
    | Reasoning
    | ToolCall
    | ToolResult
    | ApprovalRequest
    | ApprovalResolved
    | Done
    | Snapshot
)
Frame: TypeAlias = Event | Ready | Attached | Detached | ErrorFrame | Goodbye


class _Peek(msgspec.Struct):
    type: str


_frames: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)
_peek = msgspec.json.Decoder(_Peek)
_known = frozenset(str(kind.__struct_config__.tag) for kind in Frame.__args__)


def decode(text: str | bytes) -> Frame | None:
    """One frame of the gateway; None for one of a type that is of no use here.

    Raises:
        ContractBroken: it is not shaped as the protocol says.
    """
    try:
        return _frames.decode(text)
    except msgspec.DecodeError:
        try:
            kind = _peek.decode(text).type
        except msgspec.DecodeError:
            raise ContractBroken("a frame that is no JSON object with a type") from None
        if kind in _known:
            raise ContractBroken(f"a frame of type {kind} in a shape that the protocol does not know") from None
        return None
