"""What the client raises, as one tree.

AgentlineError
├── Refused             the gateway said no; has the wire's `code`, `field`, `retryable`, `retry_after`
│   ├── Unauthorized    no valid token
│   ├── Forbidden       this user may not
│   ├── NotFound        unknown, or another user's
│   ├── NoSuchAgent     there is no agent of that name
│   ├── IdConflict      the `id` was used with other content, thread or agent
│   ├── WrongAgent      the thread belongs to another agent
│   ├── Busy            as many messages wait in the thread as may, or `when_busy` was `reject`
│   ├── Unavailable     the agent is not configured, or the gateway stops or has no database
│   ├── TooLarge        the message is larger than the gateway takes
│   └── Replaced        the user opened more connections than allowed; the oldest gave way
├── Disconnected        the gateway could not be reached for `Deadlines.give_up`
├── TimedOut            the caller's own deadline passed; the turn goes on
├── TurnFailed          the turn ended as failed or interrupted; only from `stream_text`
└── ContractBroken      the peer does not speak this protocol

No text of a message and no token is in any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentline.events import Done

__all__ = [
    "AgentlineError",
    "Busy",
    "ContractBroken",
    "Disconnected",
    "Forbidden",
    "IdConflict",
    "NoSuchAgent",
    "NotFound",
    "Refused",
    "Replaced",
    "TimedOut",
    "TooLarge",
    "TurnFailed",
    "Unauthorized",
    "Unavailable",
    "WrongAgent",
    "refused",
]


class AgentlineError(Exception):
    """Anything that this client raises on its own account."""


class Refused(AgentlineError):
    """The gateway refused something, and nothing was changed by it."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        """As on the wire: see the protocol's table of error codes."""
        self.message = message
        """For a person."""
        self.retryable = retryable
        """Whether the same may succeed later."""
        self.retry_after = retry_after
        """Seconds."""
        self.field = field
        """What in the request was at fault."""

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Unauthorized(Refused): ...


class Forbidden(Refused): ...


class NotFound(Refused): ...


class NoSuchAgent(Refused): ...


class IdConflict(Refused): ...


class WrongAgent(Refused): ...


class Busy(Refused): ...


class Unavailable(Refused): ...


class TooLarge(Refused): ...


class Replaced(Refused): ...


class Disconnected(AgentlineError):
    """The gateway could not be reached, or could not be kept, for as long as this client tries."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(seconds, reason)
        self.seconds = seconds
        self.reason = reason
        """Of the last attempt."""

    def __str__(self) -> str:
        return f"no connection to the gateway for {self.seconds:.0f} s: {self.reason}"


class TimedOut(AgentlineError):
    """The turn did not end `within` the seconds that the caller gave it. It goes on at the gateway."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the turn did not end within {self.seconds:g} s; it goes on at the gateway"


class TurnFailed(AgentlineError):
    """The turn ended without completing. What it said before is in `done.content`."""

    def __init__(self, done: Done) -> None:
        super().__init__(done.status)
        self.done = done

    def __str__(self) -> str:
        error = self.done.error
        return f"the turn {self.done.status}" if error is None else f"{error.message} ({error.code})"


class ContractBroken(AgentlineError):
    """The peer sent what the protocol rules out, or speaks another version of it."""


_BY_CODE: dict[str, type[Refused]] = {
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "no_such_agent": NoSuchAgent,
    "id_conflict": IdConflict,
    "wrong_agent": WrongAgent,
    "busy": Busy,
    "agent_unavailable": Unavailable,
    "draining": Unavailable,
    "unavailable": Unavailable,
    "too_large": TooLarge,
    "replaced": Replaced,
}


def refused(
    code: str, message: str, *, retryable: bool = False, retry_after: float | None = None, field: str | None = None
) -> Refused:
    """The exception that fits the wire's error code; `Refused` itself for one that this version does not know."""
    kind = _BY_CODE.get(code, Refused)
    return kind(code, message, retryable=retryable, retry_after=retry_after, field=field)
