"""How a turn ended, and why."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import structlog

from gateway.errors import GatewayError
from gateway.text import normalise
from providers import ProviderError

if TYPE_CHECKING:
    from gateway.runner.running import RunningTurn

Ending: TypeAlias = Literal["completed", "cancelled", "failed", "interrupted"]

EXPIRED = {
    "first_event": "The agent did not begin to answer in time.",
    "idle": "The agent fell silent in the middle of its answer.",
    "total": "The answer took longer than a turn may take.",
}

MESSAGE_CHARS = 1000
"""Of what a provider says about its failure; what is longer comes cut."""
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")

_log = structlog.get_logger(__name__)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a turn did not complete, as `done.error` shows it."""

    code: str
    message: str
    retryable: bool
    retry_after: float | None = None


INTERRUPTED = Failure(
    "interrupted", "The server stopped while the agent was answering. What it had said is kept.", True
)
UNEXPECTED = Failure("provider_fault", "The agent's provider failed unexpectedly.", True)
NOT_ENDING = Failure("provider_fault", "The agent's provider did not end its answer properly.", True)


def verdict(running: RunningTurn, error: BaseException | None) -> tuple[Ending, Failure | None]:
    """The terminal state of a turn whose provider raised `error`, or nothing, and why it did not complete."""
    if running.stopped_by == "timeout":
        message = EXPIRED.get(running.deadlines.expired() or "")
        return "failed", NOT_ENDING if message is None else Failure("timeout", message, True)
    if running.answer.completed is not None and error is None:
        return "completed", None
    if running.stopped_by == "interrupted":
        return "interrupted", INTERRUPTED
    if running.stopped_by == "cancelled":
        return "cancelled", None
    if isinstance(error, ProviderError):
        return "failed", _told(error)
    if isinstance(error, GatewayError):
        return "failed", Failure(error.code, error.message, error.retryable)
    _log.error("provider_raised", turn_id=running.turn_id, agent=running.agent.name, exc_info=error)
    return "failed", UNEXPECTED


def _told(error: ProviderError) -> Failure:
    """The failure as its provider tells it. No type checker has seen every provider: what cannot be shown is left out,
    and the turn ends all the same."""
    code: object = getattr(error, "code", None)
    message: object = getattr(error, "message", None)
    wait: object = getattr(error, "retry_after", None)
    return Failure(
        code if isinstance(code, str) and _CODE.fullmatch(code) else "provider_fault",
        normalise(message)[:MESSAGE_CHARS] if isinstance(message, str) and message else UNEXPECTED.message,
        getattr(error, "retryable", False) is True,
        float(wait) if isinstance(wait, int | float) and math.isfinite(wait) and wait >= 0 else None,
    )
