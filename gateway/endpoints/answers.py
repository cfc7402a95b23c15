"""HTTP answers: JSON, and refusals in one form."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import GatewayError


def answer(value: Any, status: int = 200) -> Response:
    """`value` as JSON. Nothing of it is kept by caches."""
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def failure(status: int, code: str, message: str, retryable: bool = False, **further: Any) -> Response:
    """`{"error": {…}}` with the fitting status."""
    response = answer({"error": {"code": code, "message": message, "retryable": retryable, **further}}, status)
    if "retry_after" in further:
        response.headers["Retry-After"] = str(max(1, round(further["retry_after"])))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def refusal(error: GatewayError) -> Response:
    """The answer that tells of a refusal."""
    further: dict[str, Any] = {}
    if error.field is not None:
        further["field"] = error.field
    if error.retry_after is not None:
        further["retry_after"] = error.retry_after
    code = "bad_request" if error.code == "bad_frame" else error.code
    return failure(error.status, code, error.message, error.retryable, **further)


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's handler for every `GatewayError`."""
    assert isinstance(error, GatewayError)  # noqa: S101 - registered for this class alone
    return refusal(error)
