"""The machine-readable contracts."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.asyncapi import asyncapi
from gateway.endpoints.answers import answer
from gateway.endpoints.operations import operation
from gateway.openapi import openapi


@operation("contracts", answers={200: dict[str, Any]}, token=False)
async def openapi_json(request: Request) -> Response:
    """`GET /openapi.json`: the HTTP interface as OpenAPI."""
    state = request.app.state
    if not hasattr(state, "openapi"):  # 12 ms to make, and open to all
        state.openapi = msgspec.Raw(msgspec.json.encode(openapi(request.app.routes)))
    return answer(state.openapi)


@operation("contracts", answers={200: dict[str, Any]}, token=False)
async def asyncapi_json(request: Request) -> Response:
    """`GET /asyncapi.json`: the sockets as AsyncAPI."""
    state = request.app.state
    if not hasattr(state, "asyncapi"):
        state.asyncapi = msgspec.Raw(msgspec.json.encode(asyncapi()))
    return answer(state.asyncapi)
