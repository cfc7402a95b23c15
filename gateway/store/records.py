"""What goes into the store and what comes out: plain values, no I/O.

All times are whole milliseconds since 1970 UTC. JSON columns hold JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from notifications.records import Outcome as PushOutcomeKind
from notifications.records import Platform, Policy, Push

TurnStatus: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed", "interrupted"]


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    key: int
    """The store's own name of the thread, unique over all users; never leaves the gateway."""
    user_id: str
    thread_id: str
    agent: str
    title: str
    epoch: int
    head: int
    """Offset of the last durable event; 0 is the place before the first."""
    session: Any
    created_at: int
    updated_at: int


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    key: int
    turn_id: str
    thread_key: int
    number: int
    """1, 2, 3, … within the thread, in the order of acceptance."""
    agent: str
    status: TurnStatus
    client_id: str | None
    message_id: str
    """The user's message."""
    answer_id: str
    """The answer's message id, fixed when the turn is accepted; the message exists once the turn has ended."""
    content: str
    """The user's message."""
    attachments: Sequence[Any]
    start: int | None
    """Offset just before the turn's first event, or at an earlier place if it was cancelled while queued; None while
    it is queued."""
    retry_of: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    stop_reason: str | None
    usage: Mapping[str, int] | None
    error: Mapping[str, Any] | None
    duration_ms: int | None
    attempt: str | None
    """Under which one node has claimed it, before its provider was called; set once. None: nobody has, or there is only
    one node."""
    cancel_asked: bool
    """Whether somebody wants it stopped while it runs."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A running turn, and under which attempt it runs."""

    thread: Thread
    turn: Turn
    """`turn.attempt` is the one that stands: the caller's if nobody was before it."""
    unshown: Sequence[Turn]
    """Turns of the thread that were cancelled before they started, and whose end no log shows yet; in order."""


class NewTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a user wants to send."""

    user_id: str
    agent: str
    thread_id: str
    thread_chosen_by_client: bool = True
    """False: `thread_id` is the server's fresh choice, because the client named none. A client that repeats such a
    send lets the server choose anew, or names the thread that was chosen; both are duplicates."""
    client_id: str | None
    turn_id: str
    message_id: str
    answer_id: str
    content: str
    attachments: Sequence[Any] = ()
    """Each `{id, name, content_type, size}`."""
    retry_of: str | None = None
    steer_into: str | None = None
    """The running turn that is to get the message instead of a new one, if it still runs."""
    epoch: int
    """The epoch that the thread gets if it is new; a higher one if a deleted thread of this id had one as high."""
    title: str
    """The title that the thread gets if it is new."""
    queue_limit: int
    """How many turns may wait behind the running one. 0: only start at once, never wait."""
    at: int


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A question and its answer, from elsewhere."""

    turn_id: str
    message_id: str
    answer_id: str
    question: str
    answer: str


class Adoption(msgspec.Struct, frozen=True, kw_only=True):
    """A session that began elsewhere, to go on as a thread."""

    user_id: str
    agent: str
    thread_id: str
    title: str
    session: Mapping[str, Any]
    exchanges: Sequence[Exchange]
    epoch: int
    at: int


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    thread: Thread
    turn: Turn
    """The stored turn; the earlier one if `duplicate`."""
    duplicate: bool
    created_thread: bool
    steered: bool = False
    """The message was handed to `turn`, which ran already; `turn` shows this message as its own."""
    queued: int
    """Turns ahead of this one that have not ended, the running one included; 0 if it is running or has ended."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Adjacent events of one thread's log, as encoded by the event log."""

    first: int
    """Offset of the first event."""
    last: int
    """Offset of the last event, inclusive."""
    events: bytes


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    approval_id: str
    thread_id: str
    turn_id: str
    request: Mapping[str, Any]
    decision: str | None
    by: str | None
    text: str | None
    created_at: int
    expires_at: int
    resolved_at: int | None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one thread since its last checkpoint."""

    thread_key: int
    epoch: int
    """The thread's epoch in which these offsets were given: in another one they mean something else."""
    segment: Segment | None
    session: Any = None
    """None leaves the stored one as it is."""
    approvals: Sequence[Approval] = ()
    """New or changed ones, each as it stands now."""
    shown: Sequence[str] = ()
    """Turns that were cancelled before they started, and whose message and end are in this segment."""


class PushPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A push to every device of a thread's user, as their policies want it."""

    push: Push
    """Without `badge`, which the store counts; an empty `title` becomes the thread's."""
    policy: Policy
    """The server's."""
    grace_ms: int
    expires_at: int


class PushOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one push."""

    device_id: str | None
    """None: the user had no device."""
    platform: Platform | None
    kind: Literal["turn", "approval"]
    outcome: PushOutcomeKind
    reason: str
    at: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a turn."""

    turn_id: str
    status: Literal["completed", "cancelled", "failed", "interrupted"]
    content: str
    stop_reason: str | None
    usage: Mapping[str, int] | None
    error: Mapping[str, Any] | None
    duration_ms: int
    at: int
    checkpoint: Checkpoint
    """All that was not yet durable, up to and with the `done` event."""
    push: PushPlan | None = None
    attempt: str | None = None
    """Under which the turn runs: `Turn.attempt` as it must be."""
    epoch: int | None = None
    """A new epoch for the thread: every older segment goes, and offsets count on from `checkpoint`, whose segment may
    begin anywhere. It becomes one more than the old epoch if it is not greater: read the thread to know."""
    start_next: bool = True
    """Whether the next queued turn of the thread becomes the running one in the same transaction."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    message_id: str
    turn_id: str
    position: int
    """Orders the messages of a thread: 2 * turn number for the user's, one more for the answer."""
    role: Literal["user", "assistant"]
    content: str
    attachments: Sequence[Any]
    status: TurnStatus | None
    """An answer's: how its turn ended. None for a user's message."""
    created_at: int
    retried: bool
    """Whether a later turn is a retry of this one's turn."""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a user handed in. Messages name it as `{id, name, content_type, size}`."""

    attachment_id: str
    user_id: str
    name: str
    content_type: str
    size: int
    """Bytes."""
    sha256: str
    """Of its bytes, in hexadecimal digits."""
    created_at: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a search found."""

    thread: Thread
    message: Message


class ThreadSummary(msgspec.Struct, frozen=True, kw_only=True):
    thread: Thread
    last_message: Message | None
    running: bool
    unread: int
    """Answers behind the read mark."""
    read_message_id: str | None


class PairCode(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time code. Times are milliseconds since 1970."""

    digest: bytes
    """SHA-256 of the code."""
    user_id: str
    created_at: int
    expires_at: int


class NewDeviceToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token to be given for a code. Whose it is, the code says."""

    token_id: str
    digest: bytes
    """SHA-256 of the token."""
    name: str
    created_at: int


class DeviceToken(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a paired device's token."""

    token_id: str
    digest: bytes
    user_id: str
    name: str
    created_at: int


class DeviceTokens(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens of paired devices."""

    mark: tuple[int, int]
    """Another one after every change."""
    tokens: list[DeviceToken]
