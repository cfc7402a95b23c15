"""How a provider says that a turn failed.

ProviderError          the turn cannot go on; `code` says why
UnknownProvider        no installed package offers a provider of that name
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

__all__ = ["ERROR_CODES", "REFUSALS", "ErrorCode", "ProviderError", "UnknownProvider"]

ErrorCode: TypeAlias = Literal[
    "authentication",  # the backend does not accept the operator's key
    "permission_denied",  # the key may not do this
    "payment_required",  # credit or quota of the account is used up
    "invalid_request",  # the backend refuses the request as it stands
    "not_found",  # no such model, session or file at the backend
    "too_large",  # the conversation or an attachment exceeds the backend's limit
    "rate_limited",  # too many requests; see retry_after
    "overloaded",  # the backend has no capacity at the moment
    "connection_failed",  # the backend could not be reached
    "disconnected",  # the backend went away in the middle of the answer
    "incomplete",  # the stream ended without the backend's own terminal event
    "timeout",  # a deadline passed
    "upstream_error",  # the backend failed on its side
    "provider_fault",  # the provider broke its contract, or raised what it should not
]
ERROR_CODES: frozenset[str] = frozenset(get_args(ErrorCode))
REFUSALS: frozenset[str] = frozenset(("rate_limited", "overloaded", "connection_failed"))
"""Codes which say by themselves that the backend did no work."""


class ProviderError(Exception):
    """A turn failed in a way that the provider understands.

    `message` is shown to the person at the phone and to logs: it holds no secret, no text of the
    conversation and nothing that the backend wrote freely.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        retryable: bool = False,
        retry_after: float | None = None,
        *,
        refused: bool | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        """Whether sending the same message again later may succeed."""
        self.retry_after = retry_after
        """Seconds after which the backend wants to be asked again, if it said so."""
        self.refused = (retryable and code in REFUSALS) if refused is None else refused
        """The backend did no work for this call (it was never reached, or answered 429, 529 or 5xx
        before the first byte of an answer), so the gateway may repeat the call by itself, if nothing
        of an answer was yielded. Left out, the code says so: see `REFUSALS`."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UnknownProvider(LookupError):
    """No installed package offers a provider of this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return f"no provider named {self.name!r} is installed (there are: {', '.join(self.known) or 'none'})"
