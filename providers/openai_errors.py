"""What went wrong between us and a server of the Responses API, as `ProviderError`.

Only our own sentences leave this module: the text of a backend's error may repeat the conversation or a key.
Which errors mean that the backend did no work (`refused`) decides whether the gateway may repeat a call that
costs money, so it is read from the transport's own exception and not from the SDK's, which reports a connection
that broke after the request was sent as a timeout while connecting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import openai

from providers.errors import ErrorCode, ProviderError

__all__ = ["from_code", "from_exception"]

_LONGEST_WAIT = 3600.0

_BY_CODE: dict[str, ErrorCode] = {
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "requests": "rate_limited",
    "tokens": "rate_limited",
    "insufficient_quota": "payment_required",
    "billing_hard_limit_reached": "payment_required",
    "billing_not_active": "payment_required",
    "context_length_exceeded": "too_large",
    "string_above_max_length": "too_large",
    "image_too_large": "too_large",
    "image_file_too_large": "too_large",
    "invalid_api_key": "authentication",
    "authentication_error": "authentication",
    "permission_error": "permission_denied",
    "model_not_found": "not_found",
    "invalid_prompt": "invalid_request",
    "invalid_request_error": "invalid_request",
    "data_residency_mismatch": "permission_denied",
    "bio_policy": "permission_denied",
    "misalignment_policy_violation": "permission_denied",
    "vector_store_timeout": "timeout",
    "server_error": "upstream_error",
    "server_is_overloaded": "overloaded",
    "overloaded": "overloaded",
    "slow_down": "overloaded",
}
"""Codes and types of the API's error object: platform.openai.com/docs/guides/error-codes, and `ResponseError`."""

_BY_STATUS: dict[int, ErrorCode] = {
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

_SENTENCES: dict[ErrorCode, str] = {
    "authentication": "The model server does not accept this agent's API key.",
    "permission_denied": "The model server does not allow this request for this agent's account.",
    "payment_required": "The credit or quota of this agent's account at the model server is used up.",
    "invalid_request": "The model server does not accept the request as it stands.",
    "not_found": "The model server knows no such model, or the agent's base_url is not that of a Responses API.",
    "too_large": "The conversation is longer than the model accepts.",
    "rate_limited": "The model server gets too many requests from this agent's account.",
    "overloaded": "The model server has no capacity at the moment.",
    "connection_failed": "The model server could not be reached.",
    "disconnected": "The connection to the model server broke before the answer was complete.",
    "incomplete": "The model server ended the answer without saying that it is complete.",
    "timeout": "The model server took too long.",
    "upstream_error": "The model server failed.",
}

_GENERIC = frozenset(("invalid_request_error", "server_error"))
"""Error types that say less than the HTTP status."""

_RETRYABLE: frozenset[ErrorCode] = frozenset(
    ("rate_limited", "overloaded", "connection_failed", "disconnected", "incomplete", "timeout", "upstream_error")
)


def _error(
    code: ErrorCode, *, message: str | None = None, retry_after: float | None = None, refused: bool = False
) -> ProviderError:
    return ProviderError(
        code,
        message or _SENTENCES[code],
        retryable=code in _RETRYABLE,
        retry_after=retry_after,
        refused=refused,
    )


def from_code(*codes: object) -> ProviderError:
    """The error that the first known one of `codes` names; for errors that come inside a stream."""
    return _error(_named(*codes) or "upstream_error")


def from_exception(error: Exception, *, begun: bool) -> ProviderError:
    """The error that `error`, raised by the SDK or its transport, stands for.

    `begun` says that the turn has had an answer already (of this call, or of an earlier one): nothing is
    `refused` then.
    """
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, begun=begun)
    if isinstance(error, openai.APIConnectionError):
        if not begun and any(_never_connected(cause) for cause in _causes(error)):
            return _error("connection_failed", refused=True)
        return _error("disconnected")
    if isinstance(error, openai.APIError):  # an error object inside the stream
        return from_code(error.code, error.type)
    if isinstance(error, ValueError):  # not JSON, or not UTF-8
        return _error("upstream_error", message="The model server sent something that is not an event stream.")
    return _error("disconnected")


def _from_status(error: openai.APIStatusError, *, begun: bool) -> ProviderError:
    status = error.status_code
    code = _BY_STATUS.get(status)
    if code is None:
        code = "upstream_error" if status >= 500 else "invalid_request"
    # The status says who is at fault; the body's code only says more about a 4xx (a used-up quota is a 429 as well).
    if 400 <= status < 500:
        code = _named(error.code, None if error.type in _GENERIC else error.type) or code
    if 300 <= status < 400:
        message = "The model server answered with a redirect; the agent's base_url is not where its API is."
        return _error("invalid_request", message=message)
    transient = (status == 429 and code == "rate_limited") or status >= 500
    return _error(
        code,
        retry_after=_retry_after(error.response.headers) if transient else None,
        refused=transient and not begun,
    )


def _named(*codes: object) -> ErrorCode | None:
    """What the first known one of `codes` means."""
    for code in codes:
        if isinstance(code, str) and code in _BY_CODE:
            return _BY_CODE[code]
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _never_connected(cause: BaseException) -> bool:
    """Whether this is aiohttp's word that no request was sent: no connection, or none in time."""
    return isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))


def _retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds from `retry-after-ms` (OpenAI's own) or `Retry-After` (RFC 9110, 10.2.3: seconds or a date)."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        elif value.strip().replace(".", "", 1).isdigit():
            seconds = float(value)
        else:
            date = parsedate_to_datetime(value)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            seconds = (date - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
