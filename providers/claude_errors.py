"""What went wrong between us and the Messages API, as a `ProviderError` in our own words.

Nothing that the API wrote freely reaches the error: its text may quote the conversation or the key.
`refused` is true only where the API certainly generated nothing: see `ProviderError.refused`.
The SDK takes half a second to import, so this module needs it only when there is an error to explain.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from providers.errors import ErrorCode, ProviderError

if TYPE_CHECKING:
    import anthropic

__all__ = ["error", "from_event", "from_opening", "from_reading", "retry_after"]

_SENTENCES: Mapping[ErrorCode, str] = {
    "authentication": "Claude's API does not accept the API key of this agent.",
    "permission_denied": "The API key of this agent may not use this model or feature.",
    "payment_required": "The credit or the spending limit of the Claude account is used up.",
    "invalid_request": "Claude's API refused the request as invalid.",
    "not_found": "Claude's API does not know the model of this agent.",
    "too_large": "The conversation is longer than Claude's API accepts. Start a new thread.",
    "rate_limited": "Claude's API is receiving too many requests from this account.",
    "overloaded": "Claude's API is overloaded at the moment.",
    "connection_failed": "Claude's API could not be reached.",
    "disconnected": "The connection to Claude's API broke before the answer was complete.",
    "incomplete": "Claude's API ended the answer before it was complete.",
    "timeout": "Claude's API took too long to answer.",
    "upstream_error": "Claude's API had an error on its side.",
}
_RETRYABLE: frozenset[ErrorCode] = frozenset(
    (
        "rate_limited",
        "overloaded",
        "connection_failed",
        "disconnected",
        "incomplete",
        "timeout",
        "upstream_error",
    )
)
_BY_TYPE: Mapping[str, ErrorCode] = {
    "authentication_error": "authentication",
    "billing_error": "payment_required",
    "permission_error": "permission_denied",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limited",
    "timeout_error": "timeout",
    "overloaded_error": "overloaded",
    "invalid_request_error": "invalid_request",
    "api_error": "upstream_error",
}
_BY_STATUS: Mapping[int, ErrorCode] = {
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    409: "upstream_error",
    413: "too_large",
    429: "rate_limited",
    499: "disconnected",
    504: "timeout",
    529: "overloaded",
}


def error(code: ErrorCode, *, wait: float | None = None, refused: bool = False) -> ProviderError:
    return ProviderError(code, _SENTENCES[code], retryable=code in _RETRYABLE, retry_after=wait, refused=refused)


def from_opening(exception: Exception) -> ProviderError | None:
    """What opening the stream raised: nothing of the answer has come. None for what is not the API's doing."""
    import anthropic

    if isinstance(exception, anthropic.APIStatusError):
        return _from_status(exception)
    if isinstance(exception, anthropic.CredentialsError):
        return error("authentication")
    if not isinstance(exception, anthropic.APIError):
        return None
    if _connected(exception):
        # The request may have arrived and may be worked on: the API has no way to ask.
        return error("timeout" if isinstance(exception, anthropic.APITimeoutError) else "disconnected")
    return error("connection_failed", refused=True)


def from_reading(exception: Exception) -> ProviderError | None:
    """What reading the answer's body raised: the SDK passes on whatever its transport raises, mapped or not."""
    import aiohttp
    import aiohttp.http_exceptions
    import httpx2

    broken = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError)
    return error("disconnected") if isinstance(exception, (*broken, OSError)) else None


def from_event(data: Mapping[str, Any]) -> ProviderError:
    """An `error` event inside the stream. Work was done and may be billed, so it never counts as refused."""
    details = data.get("error")
    kind = details.get("type") if isinstance(details, Mapping) else None
    return error(_BY_TYPE.get(kind, "upstream_error") if isinstance(kind, str) else "upstream_error")


def _from_status(exception: anthropic.APIStatusError) -> ProviderError:
    status = exception.status_code
    code = _BY_STATUS.get(status, "upstream_error" if status >= 500 else "invalid_request")
    if exception.type == "billing_error" or _spent(exception):
        code = "payment_required"
    elif code == "invalid_request" and _too_long(exception):
        code = "too_large"
    if code not in _RETRYABLE or exception.response.headers.get("x-should-retry") == "false":
        return ProviderError(code, _SENTENCES[code])
    return error(code, wait=retry_after(exception.response.headers), refused=status == 429 or status >= 500)


def _spent(exception: anthropic.APIStatusError) -> bool:
    """Spending limits come as 400 or 429 with a code; an empty balance as 400 with nothing but its sentence."""
    return (exception.error_code or "").endswith("spend_limit_reached") or _says(exception, "credit balance")


def _too_long(exception: anthropic.APIStatusError) -> bool:
    return (exception.error_code or "").startswith("request_body_too_large") or _says(exception, "prompt is too long")


def _says(exception: anthropic.APIStatusError, words: str) -> bool:
    return isinstance(exception.api_message, str) and words in exception.api_message.lower()


def _connected(exception: BaseException) -> bool:
    """Whether the connection was made, so that the request may have been sent.

    The transport calls a connection lost before the answer's headers a `ConnectError` too, so the
    innermost cause decides.
    """
    import aiohttp
    import httpx2

    never = (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientHttpProxyError,
        httpx2.ConnectTimeout,
        httpx2.PoolTimeout,
    )
    causes = list(_causes(exception))
    if any(isinstance(cause, never) for cause in causes):
        return False
    return not isinstance(causes[-1], httpx2.ConnectError | httpx2.UnsupportedProtocol)


def _causes(exception: BaseException | None) -> Iterator[BaseException]:
    while exception is not None:
        yield exception
        exception = exception.__cause__


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3: seconds or an HTTP date)."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    moment = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if moment is None else max(0.0, email.utils.mktime_tz(moment) - time.time())
