"""HTTP answers: JSON, and refusals in one form."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import GatewayError


class Problem(msgspec.Struct, frozen=True):
    """What was wrong."""

    code: str
    message: str
    """For a person."""
    retryable: bool
    """Whether the same request may succeed later without a change."""
    field: str | UnsetType = UNSET
    """The name of the field at fault, dotted where it is nested."""
    retry_after: float | UnsetType = UNSET
    """Seconds to wait before another try."""


class Failure(msgspec.Struct, frozen=True):
    error: Problem


def answer(value: Any, status: int = 200) -> Response:
    """`value` as JSON. Nothing of it is kept by caches."""
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def failure(
    status: int,
    code: str,
    message: str,
    retryable: bool = False,
    *,
    field: str | None = None,
    retry_after: float | None = None,
) -> Response:
    """`{"error": {…}}` with the fitting status."""
    problem = Problem(
        code,
        message,
        retryable,
        field=UNSET if field is None else field,
        retry_after=UNSET if retry_after is None else retry_after,
    )
    response = answer(Failure(problem), status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(retry_after)))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def code_of(error: GatewayError | type[GatewayError]) -> str:
    """The error's code in HTTP answers."""
    return "bad_request" if error.code == "bad_frame" else error.code


def refusal(error: GatewayError) -> Response:
    """The answer that tells of a refusal."""
    return failure(
        error.status,
        code_of(error),
        error.message,
        error.retryable,
        field=error.field,
        retry_after=error.retry_after,
    )


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's handler for every `GatewayError`."""
    assert isinstance(error, GatewayError)  # noqa: S101 - registered for this class alone
    return refusal(error)
