"""Everything that the gateway refuses, as one tree. Each class knows how it looks to a client.

GatewayError
├── BadFrame            bad_frame          a frame or a body that does not fit the contract
├── Unauthorized        unauthorized       no token, a bad one, or a frame before `ready`
├── Forbidden           forbidden          this user may not
├── NotFound            not_found          unknown, or another user's: the same answer
├── NoSuchAgent         no_such_agent      no agent of that name
├── IdConflict          id_conflict        the id was used for something else
├── WrongAgent          wrong_agent        the thread belongs to another agent
├── NotRetryable        not_retryable      the turn is not over, or it succeeded
├── Busy                busy               a turn runs and none may wait behind it
│   └── QueueFull                          as many turns wait in the thread as may
├── TooLarge            too_large          a body of more bytes than may be sent
├── UnsupportedType     unsupported_type   a file of a type that is not taken
├── NoAttachments       no_attachments     the agent takes no attachments
├── SlowBody            timeout            the body did not come in time
├── LimitExceeded       limit_exceeded     more of something than one connection, or user, may have
│   └── AttachmentsFull                    as many bytes of attachments as one user may have
├── AgentUnavailable    agent_unavailable  the agent is not configured; the reason is for the operator
├── UpstreamFailed      upstream_failed    the agent's backend could not do what was asked for just now
├── Draining            draining           this server is about to stop; another one takes new messages
├── NodeUnavailable     unavailable        the node that could do it does not answer
└── StoreUnavailable    unavailable        the database does not answer
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Something was refused and nothing was changed.

    `message` is for a person and holds no secret and no text of a conversation.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    """The HTTP status that fits."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later without a change."""

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """The name of the field at fault, dotted where it is nested."""
        self.retry_after = retry_after
        """Seconds to wait before another try."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class BadFrame(GatewayError):
    code, status = "bad_frame", 400
    id: str | None = None
    """The client's own id of the message at fault, if it could be read."""


class Unauthorized(GatewayError):
    code, status = "unauthorized", 401


class Forbidden(GatewayError):
    code, status = "forbidden", 403


class NotFound(GatewayError):
    code, status = "not_found", 404


class NoSuchAgent(GatewayError):
    code, status = "no_such_agent", 404


class IdConflict(GatewayError):
    code, status = "id_conflict", 409

    def __init__(self) -> None:
        super().__init__("this id was already used for a message with other content, thread or agent", field="id")


class WrongAgent(GatewayError):
    code, status = "wrong_agent", 409

    def __init__(self, agent: str) -> None:
        super().__init__(f"this thread belongs to the agent {agent!r}: send the message there", field="thread_id")
        self.agent = agent


class NotRetryable(GatewayError):
    code, status = "not_retryable", 409


class Busy(GatewayError):
    code, status, retryable = "busy", 429, True


class QueueFull(Busy):
    def __init__(self) -> None:
        super().__init__("too many messages wait in this thread: try again when a turn has ended")


class TooLarge(GatewayError):
    code, status = "too_large", 413


class UnsupportedType(GatewayError):
    code, status = "unsupported_type", 415


class NoAttachments(GatewayError):
    code, status = "no_attachments", 409


class SlowBody(GatewayError):
    code, status, retryable = "timeout", 408, True


class LimitExceeded(GatewayError):
    code, status = "limit_exceeded", 429


class AttachmentsFull(LimitExceeded):
    def __init__(self) -> None:
        super().__init__("there is no room left for your attachments: delete threads that have some")


class AgentUnavailable(GatewayError):
    code, status = "agent_unavailable", 503


class UpstreamFailed(GatewayError):
    code, status, retryable = "upstream_failed", 502, True


class Draining(GatewayError):
    code, status, retryable = "draining", 503, True


class NodeUnavailable(GatewayError):
    code, status, retryable = "unavailable", 503, True

    def __init__(self) -> None:
        super().__init__("the server that runs this turn does not answer just now: try again", retry_after=1.0)


class StoreUnavailable(GatewayError):
    """The database cannot be reached, or refuses to work; `reason` is for the operator.

    What was asked for did not happen, unless the connection was lost, or the store closed, during the commit itself:
    ask again. No method of the store does its work twice.
    """

    code, status, retryable = "unavailable", 503, True

    def __init__(self, reason: str = "the database does not answer", *, undone: bool = False) -> None:
        super().__init__("the server cannot reach its database: try again")
        self.reason = reason
        self.undone = undone
        """Whether it is certain that nothing was changed."""
        self.args = (reason,)

    def __str__(self) -> str:
        return self.reason
