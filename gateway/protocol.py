"""The wire contract as types: every frame, close code and limit; decoding and encoding. No I/O.

The rules in words are in docs/protocol.md. Frames from clients are pydantic models, because outsiders write
them; frames to clients are msgspec structs, because they are encoded once per piece of text. The logged frames
are also the events of the log: an event is the frame that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from gateway.errors import BadFrame
from gateway.text import cut, cut_json, json_size, normalise_json

VERSION = 1
SUBPROTOCOL = "agentline.v1"
MESSAGE_ATTACHMENTS = 10
"""As many may one message have."""


class CloseCode(IntEnum):
    """4000–4499: reconnect and resume. 4500–4999: do not, until something changed."""

    FRAME_TOO_LARGE = 1009
    RESTART = 1012
    TOKEN_EXPIRED = 4401
    TOO_SLOW = 4408
    TOO_MANY = 4429
    BAD_TOKEN = 4501
    FORBIDDEN = 4503
    NO_SUCH_AGENT = 4504
    REPLACED = 4505


# --- from the client ---------------------------------------------------------------------------------------

Model = TypeVar("Model", bound=BaseModel)
ThreadId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ClientId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ClientFrame(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Auth(ClientFrame):
    """Names the user; again before a token expires, to stay connected."""

    type: Literal["auth"]
    token: str


class AttachmentReference(ClientFrame):
    """Names an attachment that was uploaded before."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class MessageBody(ClientFrame):
    """What a user says, on a socket or by HTTP."""

    attachments: Annotated[list[AttachmentReference], Field(max_length=MESSAGE_ATTACHMENTS)] = []
    content: str
    """May be blank only beside an attachment."""
    id: ClientId | None = None
    thread_id: ThreadId | None = None
    when_busy: Literal["queue", "steer", "reject"] = "queue"

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: str, info: ValidationInfo) -> str:
        if not content.strip() and not info.data.get("attachments"):
            raise ValueError("Text should hold more than white space")
        return content


class SendMessage(MessageBody):
    """Starts a turn, and follows its thread."""

    type: Literal["message"]


class Attach(ClientFrame):
    """Follows a thread from a cursor on."""

    type: Literal["attach"]
    thread_id: str
    cursor: str | None = None


class Detach(ClientFrame):
    """Stops following a thread."""

    type: Literal["detach"]
    thread_id: str


class Cancel(ClientFrame):
    """Stops a turn, or all turns of a thread."""

    type: Literal["cancel"]
    thread_id: str | None = None
    turn_id: str | None = None


class DecisionBody(ClientFrame):
    """The answer to an approval request."""

    decision: str
    text: str | None = None


class Approval(DecisionBody):
    """Answers an approval request. The first answer wins."""

    type: Literal["approval"]
    approval_id: str


class Seen(ClientFrame):
    """A person has this message on screen."""

    type: Literal["seen"]
    thread_id: str
    message_id: str


class Ping(ClientFrame):
    """Asks for a `pong`."""

    type: Literal["ping"]
    nonce: (
        Annotated[str, StringConstraints(max_length=128)]
        | Annotated[int, Field(ge=-(2**63), lt=2**64)]
        | Annotated[float, Field(allow_inf_nan=False)]
        | None
    ) = None
    """A number must be one that the encoder can give back."""


AnyClientFrame: TypeAlias = Auth | SendMessage | Attach | Detach | Cancel | Approval | Seen | Ping
CLIENT_FRAMES: dict[str, type[AnyClientFrame]] = {
    "auth": Auth,
    "message": SendMessage,
    "attach": Attach,
    "detach": Detach,
    "cancel": Cancel,
    "approval": Approval,
    "seen": Seen,
    "ping": Ping,
}


def decode(text: str) -> AnyClientFrame:
    """One frame of a client. NUL and lone surrogates in it become U+FFFD; unknown extra fields are ignored.

    Raises:
        BadFrame: says which field is wrong and what was expected. Its `field` is None when the frame as a whole
            is no JSON object.
    """
    value = parse_object(text, "a frame")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_FRAMES:
        problem = "is missing" if kind is None else "is not known"
        raise BadFrame(f"type: {problem}; expected one of {', '.join(CLIENT_FRAMES)}", field="type")
    try:
        frame = validate(CLIENT_FRAMES[kind], value)
    except BadFrame as error:
        error.id = client_id if isinstance(client_id := value.get("id"), str) else None
        raise
    if isinstance(frame, Cancel) and (frame.thread_id is None) == (frame.turn_id is None):
        raise BadFrame("cancel: expected either thread_id or turn_id", field="turn_id")
    return frame


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`, its strings normalised. Raises `BadFrame`, which calls it `what`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise BadFrame(f"{what} is a JSON object; this is no JSON (at character {error.pos})") from None
    except (ValueError, RecursionError):  # not UTF-8, NaN, a number of thousands of digits, nesting without end
        raise BadFrame(f"{what} is a JSON object; this one cannot be read") from None
    if not isinstance(value, dict):
        raise BadFrame(f"{what} is a JSON object, not a {_json_name(value)}")
    try:
        normalised: dict[str, Any] = normalise_json(value)
    except RecursionError:
        raise BadFrame(f"{what} is a JSON object; this one is nested too deeply") from None
    return normalised


def _refuse(constant: str) -> None:
    raise ValueError("NaN and the infinities are no JSON")


def validate(model: type[Model], value: object) -> Model:
    """`value` as `model`. Raises `BadFrame` for the first field at fault, without repeating its value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        names = [str(part) for part in first["loc"] if not isinstance(part, str) or part in _field_names(model)]
        field = ".".join(names) or None
        problem = first["msg"].removeprefix("Value error, ")
        raise BadFrame(f"{field}: {problem}" if field else problem, field=field) from None


def _field_names(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def _json_name(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", type(None): "null"}
    return names[type(value)]


# --- to the client -----------------------------------------------------------------------------------------


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


def schema() -> dict[str, Any]:
    """The JSON Schema of every frame: `client` and `server`, by frame type."""
    server = {kind.__struct_config__.tag: kind for kind in AnyServerFrame.__args__}
    return {
        "protocol": VERSION,
        "client": {name: TypeAdapter(model).json_schema() for name, model in CLIENT_FRAMES.items()},
        "server": {str(name): msgspec.json.schema(kind) for name, kind in server.items()},
    }
