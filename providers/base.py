"""The provider contract: one class, one method, one argument.

A provider connects one backend. The gateway makes one object per configured agent and calls
`stream(turn)` once per turn, many at the same time. A plug-in imports only `providers`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from providers.events import Event

__all__ = [
    "APPROVED",
    "CAPABILITIES",
    "DECLINED",
    "ApprovalRequest",
    "Attachment",
    "Capability",
    "Decision",
    "Message",
    "Option",
    "Provider",
    "Session",
    "SessionProvider",
    "Turn",
]

Capability: TypeAlias = Literal["reasoning", "tools", "approvals", "steer", "sessions", "attachments"]
CAPABILITIES: frozenset[str] = frozenset(("reasoning", "tools", "approvals", "steer", "sessions", "attachments"))


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or a document in a user's message."""

    id: str
    name: str
    """As the user called the file; not unique."""
    content_type: str
    """`image/png`, `image/jpeg`, `image/gif`, `image/webp` or `application/pdf`: what its first bytes say it is."""
    size: int
    """Bytes."""
    read: Callable[[], Awaitable[bytes]]
    """Its content. Nothing is read before this is called. Raises `ProviderError` if it is gone."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Literal["user", "assistant"]
    content: str
    """Well-formed text without NUL; an assistant's may be empty or partial if its turn did not complete, a user's
    may be blank beside an attachment."""
    attachments: Sequence[Attachment] = ()
    """A user's, for providers with the capability `attachments`; others get none."""


@dataclass(frozen=True, slots=True)
class Option:
    """One answer that a person may give to an approval request."""

    id: str
    label: str


APPROVED = Option("approved", "Allow once")
DECLINED = Option("declined", "Decline")


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A decision, or an answer, that the agent needs from a person before it goes on."""

    kind: Literal["command", "file_change", "tool", "question"]
    title: str
    """One line: what is asked."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """All that a person needs to decide, made of JSON values: the exact `command` and its `cwd`, the `diff`."""
    call_id: str | None = None
    """The tool call that waits for it."""
    options: tuple[Option, ...] = (APPROVED, DECLINED)
    """At least one. `approved` and `declined` are always the ids of plain yes and no."""
    free_text: bool = False
    """Whether a person may answer in their own words."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's answer to an `ApprovalRequest`."""

    option: str
    """The id of an offered option, or `declined`."""
    text: str | None = None
    expired: bool = False
    """Nobody answered in time; `option` is then `declined`."""

    @property
    def approved(self) -> bool:
        """Whether the answer is a plain yes; providers with further options look at `option`."""
        return self.option == APPROVED.id


async def _declines(request: ApprovalRequest) -> Decision:
    return Decision(DECLINED.id)


async def _no_messages() -> AsyncIterator[Message]:
    return
    yield  # an async generator without items


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user message and everything that a provider may need to answer it. It may grow further fields."""

    thread_id: str
    """Unique within the user; use with `user_id` to tell threads apart."""
    turn_id: str
    user_id: str = ""
    messages: Sequence[Message]
    """The conversation, oldest first. The last one is the user's message that began this turn."""
    session: Any = None
    """What this provider last yielded as `SessionUpdated` for the thread; None if it did not."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The agent's options as the operator wrote them."""
    connect_seconds: float = 10.0
    """How long the provider may take to reach its backend."""
    approve: Callable[[ApprovalRequest], Awaitable[Decision]] = _declines
    """Ask a person. Returns `declined` when nobody answers in time; the idle deadline stands still
    meanwhile. Cancelled together with the turn. Several may be open at once."""
    steering: AsyncIterator[Message] = field(default_factory=_no_messages)
    """Further user messages for the running turn, for providers with the capability `steer`. Never ends
    before the turn does; read it in a task of the generator's own."""


class Provider(Protocol):
    """What the gateway expects of the object that an entry point of the group `agentline.providers` makes.

    The entry point is called with the agent's options as keyword arguments. What it raises is shown to the
    operator as the reason why the agent is not available: `TypeError` for an unknown option, `ValueError` for
    a wrong or missing one. No secret belongs in its text.

    A provider that holds something open (a client, a process) is also an async context manager: the
    gateway enters it before the first turn and leaves it after the last.
    """

    @property
    def name(self) -> str:
        """The backend's name, as in the entry point."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the provider can do; what is left out is unsupported."""

    def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        """Answer `turn`.

        Yields events as they come from the backend, never collected first; a backend that cannot stream
        yields its answer as one `TextDelta`. The last event is the one and only `Completed`.

        The gateway owns the generator: it iterates in one task, cancels that task to cancel the turn
        (`CancelledError` is raised at the current `await` and must pass), and always closes the generator.
        The generator must not block the event loop, and must tell its backend to stop when it is closed.

        Raises:
            ProviderError: the turn failed; every failure that the provider can foresee. Raised without the
                backend's own exception as its cause (`from None`): its text may quote the conversation or a key.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A piece of work begun elsewhere, in a terminal for instance, that a thread can go on with."""

    id: str
    """The backend's own name of it."""
    title: str
    """One line for a person; empty if there is nothing to show."""
    cwd: str = ""
    """Where it works, for backends that work in a directory."""
    created_at: int
    """Milliseconds since 1970 UTC, as all times."""
    updated_at: int
    session: Mapping[str, Any]
    """What to keep as the provider session of a thread that adopts it: `Turn.session` of its next turn."""


class SessionProvider(Provider, Protocol):
    """A provider with the capability `sessions`. Both methods raise `ProviderError`."""

    async def sessions(self, user_id: str) -> Sequence[Session]:
        """The sessions that this user may adopt, newest first. No other may be adopted."""
        ...

    async def session_messages(self, user_id: str, session_id: str) -> Sequence[Message]:
        """What was said so far, oldest first; `not_found` for a session that the user may not adopt."""
        ...
