"""Codex's error kinds (`CodexErrorInfo` of its schema) as ours, in our own sentences.

Codex's messages hold URLs and whatever the backend wrote, so none of them is shown. Nothing here is `refused`:
once a turn was started, Codex has asked the model itself, several times as a rule, and has kept the user's message.
"""

from __future__ import annotations

from typing import Any

from providers.errors import ErrorCode, ProviderError

__all__ = ["disconnected", "turn_error"]

_KINDS: dict[str, tuple[ErrorCode, str, bool]] = {
    "contextWindowExceeded": ("too_large", "The conversation no longer fits into the model's context.", False),
    "sessionBudgetExceeded": ("payment_required", "The budget of this Codex session is used up.", False),
    "usageLimitExceeded": ("payment_required", "The quota of the operator's account is used up.", False),
    "rateLimitExceeded": ("rate_limited", "The model's backend takes no more requests at the moment.", True),
    "flexUnavailable": ("overloaded", "The model's backend has no capacity at the moment.", True),
    "serverOverloaded": ("overloaded", "The model's backend has no capacity at the moment.", True),
    "cyberPolicy": ("permission_denied", "The model's backend refuses this request by its usage policy.", False),
    "misalignmentPolicyViolation": ("permission_denied", "Codex stopped this work by its usage policy.", False),
    "tooManyDenials": ("permission_denied", "Too many of Codex's requests for approval were declined.", False),
    "internalServerError": ("upstream_error", "The model's backend failed.", True),
    "unauthorized": ("authentication", "The model's backend does not accept the operator's credentials.", False),
    "badRequest": ("invalid_request", "The model's backend refuses the request.", False),
    "sandboxError": ("upstream_error", "Codex could not set up its sandbox on this machine.", False),
    "httpConnectionFailed": ("connection_failed", "The model's backend could not be reached.", True),
    "responseStreamConnectionFailed": ("connection_failed", "The model's backend could not be reached.", True),
    "responseStreamDisconnected": ("disconnected", "The model's backend went away in the middle of the answer.", True),
    "responseTooManyFailedAttempts": ("upstream_error", "The model's backend failed again and again.", True),
}
_STATUSES: dict[int, tuple[ErrorCode, str, bool]] = {
    400: _KINDS["badRequest"],
    401: _KINDS["unauthorized"],
    402: _KINDS["usageLimitExceeded"],
    403: ("permission_denied", "The operator's credentials do not allow this.", False),
    404: ("not_found", "The model's backend does not know the model or the address.", False),
    408: ("timeout", "The model's backend did not answer in time.", True),
    413: _KINDS["contextWindowExceeded"],
    422: _KINDS["badRequest"],
    429: _KINDS["rateLimitExceeded"],
    503: _KINDS["serverOverloaded"],
    529: _KINDS["serverOverloaded"],
}


def _parts(info: Any) -> tuple[str, int | None]:
    """The kind and, where Codex tells, the backend's HTTP status."""
    if isinstance(info, str):
        return info, None
    if isinstance(info, dict) and info:
        kind, fields = next(iter(info.items()))
        status = fields.get("httpStatusCode") if isinstance(fields, dict) else None
        return str(kind), status if isinstance(status, int) else None
    return "other", None


def turn_error(info: Any, message: str = "", retried: Any = None) -> ProviderError:
    """The error of a failed turn. `retried` is what Codex said when it last tried again: in the end it often
    calls the same thing `other`. So it does with a plain 400, whose body is then the whole `message`."""
    kind, status = _parts(info)
    if kind == "other" and message.startswith("{"):
        kind = "badRequest"
    if kind not in _KINDS and retried is not None:
        kind, status = _parts(retried)
    found = _STATUSES.get(status) if status is not None else None
    if found is None and status is not None and status >= 500:
        found = _KINDS["internalServerError"]
    code, sentence, retryable = found or _KINDS.get(kind) or ("upstream_error", "Codex could not finish.", True)
    return ProviderError(code, sentence, retryable=retryable, refused=False)  # Codex has the message already


def disconnected() -> ProviderError:
    return ProviderError("disconnected", "Codex stopped in the middle of the turn.", retryable=True)
