"""What a close code, a refused upgrade or an HTTP status means: an error for good, or a reason to come back. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agentline.errors import AgentlineError, ContractBroken, Refused, refused
from agentline.records import Problems

__all__ = ["Lost", "closed", "refused_answer", "refused_upgrade"]

FOR_GOOD = {
    1009: ("too_large", "the message is larger than this gateway takes"),
    4501: ("unauthorized", "the gateway does not accept this token"),
    4503: ("forbidden", "the gateway does not serve this user"),
    4504: ("no_such_agent", "the gateway has no agent of that name"),
    4505: ("replaced", "this connection gave way to a newer one of the same user"),
}
_CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "too_large", 429: "busy"}
_problems = msgspec.json.Decoder(Problems)


class Lost(Exception):
    """The connection is gone, or the gateway asks to come back: connect again and resume.

    Stays inside this package. `at_least` is what the gateway wants to be waited, in seconds.
    """

    def __init__(self, reason: str, at_least: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at_least = at_least


def closed(code: int | None, *, by_gateway: bool = True) -> AgentlineError | Lost:
    """What it means that the connection ended with `code`; None: without a close frame.

    `by_gateway` tells a close frame of the gateway from one that this side sent because it could not read the peer.
    """
    if by_gateway and code in FOR_GOOD:
        return refused(*FOR_GOOD[code])
    if not by_gateway and code in (1002, 1007, 1009):
        return ContractBroken(f"the peer sent what is no WebSocket message of this protocol ({code})")
    if code is not None and 4500 <= code <= 4999:
        return Refused(f"close_{code}", f"the gateway closed the connection for good ({code})")
    return Lost("the connection was lost" if code is None else f"the connection was closed ({code})")


def refused_upgrade(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> AgentlineError | Lost:
    """What it means that the gateway, or a proxy before it, answered the upgrade with `status`."""
    error = refused_answer(status, headers, body)
    if status in (408, 425, 429) or status >= 500:
        return Lost(error.message, error.retry_after or 0.0)
    return error


def refused_answer(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> Refused:
    """The refusal that an HTTP answer tells of; a proxy's in its own words is known by its status."""
    try:
        problem = _problems.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        code = _CODES.get(status, "unavailable" if status >= 500 else "bad_request")
        message = f"the gateway, or a proxy before it, answered {status}"
        if 300 <= status < 400:
            message += ": a redirect, which is not followed with a token; use the address that it names"
        return refused(code, message, retryable=status >= 500, retry_after=_seconds(headers.get("retry-after")))
    return refused(
        problem.code,
        problem.message,
        retryable=problem.retryable,
        retry_after=problem.retry_after or _seconds(headers.get("retry-after")),
        field=problem.field,
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else None
