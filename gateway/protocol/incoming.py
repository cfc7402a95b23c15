"""The frames of clients and the bodies of their HTTP calls, as pydantic models, because outsiders write them; decoding.

Nothing that they say is repeated in a refusal.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, field_validator

from gateway.errors import BadFrame
from gateway.text import normalise_json

MESSAGE_ATTACHMENTS = 10
"""As many may one message have."""

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
